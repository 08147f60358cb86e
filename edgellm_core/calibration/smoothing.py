"""Scales of the input channels of one decoder layer, folded into what feeds them: the graph gains no operator.

A fold is proved before anything is rounded: with all folds, the layer in float32 still returns what it returned.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
    probe: LayerProbe, plan: QuantizationPlan, smoothing: str, inputs: Sequence[SharedInput]
) -> SmoothedLayer:
    """Search and fold the scales of a decoder layer.

    Args:
        probe: the layer in float32.
        plan: forms of its linear layers.
        smoothing: ``awq`` or ``smoothquant``.
        inputs: what was measured of the inputs of all of its linear layers.
    """
    folds: list[Fold] = []
    unfolded: list[str] = []
    for shared in inputs:
        rounded = [path for path in shared.modules if path in plan.smoothed]
        if not rounded:
            continue
        feeder = find_feeder(probe, rounded[0])
        if feeder is None or not _takes_scales(probe, feeder, shared.modules):
            unfolded.append(rounded[0])
            continue
        fold = _search(probe, plan, smoothing, shared, rounded, feeder)
        if fold is not None:
            folds.append(fold)
    changed = apply_folds(probe.weights, folds)
    if probe.changes_output(changed, tolerance=PROOF):
        return SmoothedLayer(unfolded=tuple(shared.modules[0] for shared in inputs))
    return SmoothedLayer(
        changed=changed,
        scales={path: fold.scale for fold in folds for path in fold.readers},
        strengths={fold.readers[0]: fold.strength for fold in folds},
        unfolded=tuple(unfolded),
    )


def _takes_scales(probe: LayerProbe, feeder: Feeder, readers: tuple[str, ...]) -> bool:
    """Prove that a feeder takes over scales: with random ones folded, the layer's output stays."""
    import torch

    generator = torch.Generator().manual_seed(1)
    rows = torch.rand(feeder.rows, generator=generator) * 1.5 + 0.5
    fold = Fold(readers=readers, feeder=feeder, scale=rows[feeder.row_of].to(probe.output.device), strength=0.0)
    changed = apply_folds(probe.weights, [fold])
    return probe.own.issuperset(changed) and not probe.changes_output(changed, tolerance=PROOF)


def _search(
    probe: LayerProbe,
    plan: QuantizationPlan,
    smoothing: str,
    shared: SharedInput,
    rounded: list[str],
    feeder: Feeder,
) -> Fold | None:
    """Return the best fold of one input, or None where no scale is best."""
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
