"""Scales of the input channels of one decoder layer, folded into what feeds them: the graph gains no operator.

A fold is proved before anything is rounded: with all folds, the layer in float32 still returns what it returned.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from edgellm_core.calibration.awq import search_awq
from edgellm_core.calibration.folding import Feeder, find_feeder
from edgellm_core.calibration.scales import Search
from edgellm_core.calibration.smoothquant import search_smoothquant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from edgellm_core.calibration.plan import QuantizationPlan
    from edgellm_core.calibration.probing import LayerProbe
    from edgellm_core.calibration.statistics import SharedInput

PROOF: Final = 1e-5
"""Largest change of a layer's output, relative to its largest value, that folds may make in float32."""


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One scale and where it goes.

    Attributes:
        readers: linear layers whose input is divided by the scale; their columns are multiplied by it.
        feeder: what is divided by it instead.
        scale: of each channel [in].
        strength: α.
    """

    readers: tuple[str, ...]
    feeder: Feeder
    scale: torch.Tensor
    strength: float


@dataclass(frozen=True, kw_only=True)
class SmoothedLayer:
    """What smoothing changed in a layer.

    Attributes:
        changed: float32 values by the path of the parameter.
        scales: scale of the input of each linear layer [in], by path.
        strengths: α of each input, by the first layer that reads it.
        unfolded: first readers of inputs whose feeder was not found or does not take a scale.
    """

    changed: Mapping[str, torch.Tensor] = field(default_factory=dict)
    scales: Mapping[str, torch.Tensor] = field(default_factory=dict)
    strengths: Mapping[str, float] = field(default_factory=dict)
    unfolded: tuple[str, ...] = ()


def smooth_layer(
    probe: LayerProbe, plan: QuantizationPlan, smoothing: str, inputs: Sequence[SharedInput], known: KnownFeeders
) -> SmoothedLayer:
    """Search and fold the scales of a decoder layer.

    Args:
        probe: the layer in float32.
        plan: forms of its linear layers.
        smoothing: ``awq`` or ``smoothquant``.
        inputs: what was measured of the inputs of all of its linear layers.
        known: feeders of the layers before, which are tried first.
    """
    wanted = [shared for shared in inputs if plan.smoothed.intersection(shared.modules)]
    feeders = known.find(probe, [shared.modules for shared in wanted])
    found = [
        _search(probe, plan, smoothing, shared, feeder)
        for shared, feeder in zip(wanted, feeders, strict=True)
        if feeder is not None
    ]
    folds = [fold for fold in found if fold is not None]
    unfolded = [shared.modules[0] for shared, feeder in zip(wanted, feeders, strict=True) if feeder is None]
    changed = apply_folds(probe.weights, folds)
    if probe.changes_output(changed, tolerance=PROOF):
        return SmoothedLayer(unfolded=tuple(shared.modules[0] for shared in wanted))
    return SmoothedLayer(
        changed=changed,
        scales={path: fold.scale for fold in folds for path in fold.readers},
        strengths={fold.readers[0]: fold.strength for fold in folds},
        unfolded=tuple(unfolded),
    )


class KnownFeeders:
    """Feeders of the inputs of decoder layers, by the paths within a layer of what reads an input."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, ...], Feeder | None] = {}

    def find(self, probe: LayerProbe, groups: Sequence[tuple[str, ...]]) -> list[Feeder | None]:
        """Return the feeder of each input of a layer, proved on it, or None.

        Those of an earlier layer are proved together; where that fails, or there are none, they are searched for.

        Args:
            probe: the layer.
            groups: paths of the linear layers that read each input.
        """
        prefix = f"{probe.path}."
        keys = [tuple(path.removeprefix(prefix) for path in group) for group in groups]
        if all(key in self._found for key in keys):
            known = [self._found[key] for key in keys]
            feeders = [feeder and replace(feeder, module=prefix + feeder.module) for feeder in known]
            pairs = [(group, feeder) for group, feeder in zip(groups, feeders, strict=True) if feeder is not None]
            if _take_scales(probe, pairs):
                return feeders
        found: list[Feeder | None] = []
        for group, key in zip(groups, keys, strict=True):
            feeder = find_feeder(probe, group[0])
            if feeder is not None and not _take_scales(probe, [(group, feeder)]):
                feeder = None
            self._found[key] = feeder and replace(feeder, module=feeder.module.removeprefix(prefix))
            found.append(feeder)
        return found


def _take_scales(probe: LayerProbe, pairs: Sequence[tuple[tuple[str, ...], Feeder]]) -> bool:
    """Prove that feeders take over scales: with random ones folded, the layer's output stays."""
    import torch

    generator = torch.Generator().manual_seed(1)
    folds = []
    for readers, feeder in pairs:
        rows = torch.rand(feeder.rows, generator=generator) * 1.5 + 0.5
        scale = rows[feeder.row_of].to(probe.output.device)
        folds.append(Fold(readers=readers, feeder=feeder, scale=scale, strength=0.0))
    changed = apply_folds(probe.weights, folds)
    return probe.own.issuperset(changed) and not probe.changes_output(changed, tolerance=PROOF)


def _search(
    probe: LayerProbe, plan: QuantizationPlan, smoothing: str, shared: SharedInput, feeder: Feeder
) -> Fold | None:
    """Return the best fold of one input, or None where no scale is best."""
    rounded = [path for path in shared.modules if path in plan.smoothed]
    search = Search.over(feeder.row_of, probe.output.device)
    weights = [probe.weights[f"{path}.weight"] for path in rounded]
    if smoothing == "awq":
        strength = search_awq(shared.statistics, weights, plan.linears[rounded[0]].block_size, search)
    else:
        strength = search_smoothquant(shared.statistics, weights, search)
    if not strength:
        return None
    scale = search.scale
    if feeder.kind != "rows":
        name = f"{feeder.module}.weight"
        scale = feeder.storable(probe.weights[name], scale, probe.stored_types[name])
    return Fold(readers=shared.modules, feeder=feeder, scale=scale, strength=strength)


def apply_folds(weights: Mapping[str, torch.Tensor], folds: Sequence[Fold]) -> dict[str, torch.Tensor]:
    """Return the parameters that folds change by path.

    Args:
        weights: float32 values of all parameters by path.
        folds: scales and where they go.
    """
    changed: dict[str, torch.Tensor] = {}
    for fold in folds:
        for path in fold.readers:
            name = f"{path}.weight"
            changed[name] = changed.get(name, weights[name]) * fold.scale
        row_of = fold.feeder.row_of.to(fold.scale.device)
        rows = fold.scale.new_ones(fold.feeder.rows).index_copy_(0, row_of, fold.scale)
        changed |= fold.feeder.multiplied({**weights, **changed}, 1 / rows)
    return changed
