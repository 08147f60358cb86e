"""The tensors of one part of a quantized checkpoint: rounded weights with their scales, and what stays as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgellm_core.calibration.resume import LayerRecord
from edgellm_core.calibration.rounding import LinearWeight, round_together

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from edgellm_core.calibration.plan import QuantizationPlan
    from edgellm_core.calibration.smoothing import SmoothedLayer
    from edgellm_core.calibration.stack import DecoderStack
    from edgellm_core.calibration.statistics import SharedInput
    from edgellm_core.quantization.formats import LinearFormat

IDLE = "no calibration token reaches it"


@dataclass(frozen=True, kw_only=True)
class LayerResult:
    """One finished part of the model.

    Attributes:
        tensors: its tensors by their names in the checkpoint.
        record: what became of its layers.
    """

    tensors: Mapping[str, torch.Tensor]
    record: LayerRecord


def quantize_linears(
    stack: DecoderStack,
    plan: QuantizationPlan,
    path: str,
    inputs: Sequence[SharedInput],
    smoothed: SmoothedLayer,
) -> LayerResult:
    """Round the planned linear layers at or under a path.

    Args:
        stack: the model.
        plan: forms of the layers.
        path: path of a decoder layer, or of the head.
        inputs: what was measured of their inputs.
        smoothed: what smoothing changed.
    """
    tensors = dict(tensors_under(stack, path)) if path != plan.head else {}
    for parameter, value in smoothed.changed.items():
        name = stack.reader.tensor_names(parameter)[0]
        tensors[name] = value.to(tensors[name].dtype).cpu()
    linears: dict[str, LinearFormat] = {}
    for shared in inputs:
        weights = [
            LinearWeight(
                path=module,
                weight=_weight(stack, module, smoothed),
                form=plan.linears[module],
                input_amax=_range(shared, module, smoothed) if _needs_range(plan.linears[module]) else None,
            )
            for module in shared.modules
            if module in plan.linears
        ]
        for module, rounded in round_together(weights, _products(shared, plan, smoothed)).items():
            name = plan.name(module)
            tensors.update({f"{name}.{suffix}": value for suffix, value in rounded.items()})
            linears[name] = plan.linears[module]
    planned = [module for module in plan.linears if module == path or module.startswith(f"{path}.")]
    idle = {plan.name(module): IDLE for module in planned if plan.name(module) not in linears}
    record = LayerRecord(linears=linears, excluded=idle, unscaled=smoothed.unfolded, strengths=smoothed.strengths)
    return LayerResult(tensors=tensors, record=record)


def _weight(stack: DecoderStack, module: str, smoothed: SmoothedLayer) -> torch.Tensor:
    """Return a weight in the element type of the checkpoint, or in float32 where smoothing changed it."""
    changed = smoothed.changed.get(f"{module}.weight")
    return stack.reader.read(f"{module}.weight").to(stack.device) if changed is None else changed


def _products(shared: SharedInput, plan: QuantizationPlan, smoothed: SmoothedLayer) -> torch.Tensor | None:
    """Return the Gram matrix of an input after smoothing, where its readers are rounded with it."""
    if not plan.compensated.intersection(shared.modules):
        return None
    scale = smoothed.scales.get(shared.modules[0])
    gram = shared.statistics.products
    return gram if scale is None else gram / scale / scale.unsqueeze(1)


def _range(shared: SharedInput, module: str, smoothed: SmoothedLayer) -> torch.Tensor | None:
    """Return the largest absolute value of a layer's input, after smoothing."""
    scale = smoothed.scales.get(module)
    return shared.statistics.amax if scale is None else (shared.statistics.range / scale).amax()


def tensors_under(stack: DecoderStack, *prefixes: str) -> dict[str, torch.Tensor]:
    """Return the checkpoint's own tensors that make up the parameters at or under these paths."""
    names = {
        source: None
        for parameter, _ in stack.model.named_parameters(remove_duplicate=False)
        if any(parameter == prefix or parameter.startswith(f"{prefix}.") for prefix in prefixes)
        for source in stack.reader.tensor_names(parameter)
    }
    return {name: stack.reader.read_tensor(name) for name in names}


def _needs_range(form: LinearFormat) -> bool:
    return form.input == "static" or (form.weight == "nvfp4" and form.input == "dynamic")
