"""Rounds weights with ModelOpt's own quantizers, so that scales and packed bytes are what ModelOpt itself exports."""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.calibration.compensation import NEAREST, clipped_int4_steps, round_compensated
from edgellm_core.calibration.errors import ModelOptMissingError
from edgellm_core.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch
    from torch import nn

    from edgellm_core.quantization.formats import LinearFormat

QUANTIZERS: Final[Mapping[tuple[str, str], Mapping[str, Any]]] = {
    ("fp8", "tensor"): {"num_bits": (4, 3), "axis": None},
    ("int8", "channel"): {"num_bits": 8, "axis": 0},
    ("int4", "block"): {"num_bits": 4, "block_sizes": {"type": "static"}},
    ("nvfp4", "block"): {"num_bits": (2, 1), "block_sizes": {"type": "dynamic", "scale_bits": (4, 3)}},
    ("mxfp8", "block"): {"num_bits": (4, 3), "block_sizes": {"type": "dynamic", "scale_bits": (8, 0)}},
}
"""Kind of weight and granularity → attributes of ModelOpt's weight quantizer (``configs/numerics`` of its presets)."""


@dataclass(frozen=True, kw_only=True)
class LinearWeight:
    """One linear layer that is going to be rounded.

    Attributes:
        path: path of the module.
        weight: [out, in], in the element type in which it is divided by its scale.
        form: how it is stored.
        input_amax: largest absolute value of its input []; None where the form needs none.
    """

    path: str
    weight: torch.Tensor
    form: LinearFormat
    input_amax: torch.Tensor | None = None


@contextlib.contextmanager
def quiet_modelopt() -> Iterator[None]:
    """Drop the warnings and prints of ModelOpt in the body; what matters of them is checked here.

    Raises:
        ModelOptMissingError: it can't be imported.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            import modelopt.torch.export  # noqa: F401  # loads plugins, which warn
        except ImportError as error:
            raise ModelOptMissingError(str(error)) from error
        yield


def modelopt_version() -> str:
    """Return the version of ModelOpt that rounds.

    Raises:
        ModelOptMissingError: it is not installed.
    """
    with quiet_modelopt():
        import modelopt

    return str(modelopt.__version__)


def round_together(
    linears: Sequence[LinearWeight], gram: torch.Tensor | None = None
) -> dict[str, dict[str, torch.Tensor]]:
    """Round the layers that read one input; return the tensors of each path by suffix, as ``LinearFormat.tensors``.

    Layers of one form share what ModelOpt shares among layers that kernels may fuse: the second-level scale of nvfp4.

    Args:
        linears: the layers.
        gram: sum over tokens of xᵀx of their input [in, in], to compensate with; None rounds to the nearest.

    Raises:
        PluginError: a scheme asks for a form that ModelOpt's quantizers don't have.
    """
    with quiet_modelopt():
        from modelopt.torch.export.quant_utils import preprocess_linear_fusion

        modules = {linear.path: _quantized(linear) for linear in linears}
        for form in {linear.form for linear in linears if linear.form.weight == "nvfp4"}:
            preprocess_linear_fusion([modules[linear.path] for linear in linears if linear.form == form])
        scaled = [_scaled(modules[linear.path], linear) for linear in linears]
        if gram is not None:
            scaled = _compensated(scaled, gram)
        return {weight.linear.path: _exported(modules[weight.linear.path], weight) for weight in scaled}


def _quantized(linear: LinearWeight) -> nn.Module:
    """Return ModelOpt's quantized twin of a layer, with calibrated quantizers."""
    from modelopt.torch.quantization.config import QuantizerAttributeConfig
    from modelopt.torch.quantization.nn import QuantModuleRegistry
    from torch import nn

    outputs, inputs = linear.weight.shape
    plain = nn.Linear(inputs, outputs, bias=False, device="meta")
    plain.weight = nn.Parameter(linear.weight.float(), requires_grad=False)
    module: Any = QuantModuleRegistry.convert(plain)
    attributes = quantizer_attributes(linear.form)
    module.weight_quantizer.set_from_attribute_config(QuantizerAttributeConfig(**attributes))
    _calibrate_weight(module)
    if linear.form.input == "none":
        module.input_quantizer.disable()
    else:
        shared = {**attributes, "axis": None}
        module.input_quantizer.set_from_attribute_config(QuantizerAttributeConfig(**shared))
        if linear.input_amax is not None:
            module.input_quantizer.amax = _positive(linear.input_amax.float(), module.input_quantizer.maxbound)
    quantized: nn.Module = module
    return quantized


def quantizer_attributes(form: LinearFormat) -> dict[str, Any]:
    """Return the attributes of ModelOpt's weight quantizer for a form; the caller may change them.

    Raises:
        PluginError: there is none.
    """
    known = QUANTIZERS.get((form.weight, form.granularity))
    if known is None:
        msg = (
            f"A scheme asks for {form.weight} weights with one scale for each {form.granularity}, which ModelOpt's "
            "quantizers don't have. Return another form from linear_format()."
        )
        raise PluginError(msg)
    attributes = dict(known)
    if "block_sizes" in attributes:
        attributes["block_sizes"] = {-1: form.block_size, **attributes["block_sizes"]}
    return attributes


def _calibrate_weight(module: Any) -> None:
    import torch
    from modelopt.torch.quantization.model_calib import enable_stats_collection, finish_stats_collection

    quantizer = module.weight_quantizer
    enable_stats_collection(quantizer)
    with torch.no_grad():
        quantizer(module.weight)
    finish_stats_collection(quantizer)
    if getattr(quantizer, "_amax", None) is not None and not quantizer.is_mx_format:
        quantizer.amax = _positive(quantizer.amax, quantizer.maxbound)


def _positive(amax: torch.Tensor, largest: float) -> torch.Tensor:
    """Return ranges with 0 replaced: zeros are exact at any scale, and ModelOpt refuses a scale of 0."""
    return amax.where(amax > 0, amax.new_tensor(largest))


@dataclass(frozen=True, kw_only=True)
class _Scaled:
    """A layer and the scales of its weight as ModelOpt shapes them; ``scale_2`` is the second level of nvfp4's."""

    linear: LinearWeight
    weight: torch.Tensor
    scale: torch.Tensor
    scale_2: torch.Tensor | None

    @property
    def steps(self) -> torch.Tensor:
        """What one unit of the stored numbers stands for, [out, blocks]."""
        scale = self.scale.float() if self.scale_2 is None else self.scale.float() * self.scale_2
        outputs = self.weight.shape[0]
        return scale.reshape(outputs, -1) if scale.numel() > 1 else scale.reshape(1, 1).expand(outputs, 1)


def _scaled(module: Any, linear: LinearWeight) -> _Scaled:
    from modelopt.torch.export import quant_utils

    scale_2 = quant_utils.get_weight_scaling_factor_2(module) if linear.form.weight == "nvfp4" else None
    scale = quant_utils.get_weight_scaling_factor(module)
    return _Scaled(linear=linear, weight=linear.weight, scale=scale, scale_2=scale_2)


def _compensated(layers: Sequence[_Scaled], gram: torch.Tensor) -> list[_Scaled]:
    """Return layers with rounded weights and, for int4, clipped scales; those of one form are rounded as one."""
    import torch

    found: list[_Scaled] = []
    for form in dict.fromkeys(layer.linear.form for layer in layers):
        members = [layer for layer in layers if layer.linear.form == form]
        if form.weight not in NEAREST:
            found += members
            continue
        stacked = torch.cat([member.weight.float() for member in members])
        steps = torch.cat([member.steps for member in members])
        if form.weight == "int4":
            steps = clipped_int4_steps(stacked, gram, form.block_size)
        rounded = round_compensated(stacked, steps, gram, NEAREST[form.weight])
        start = 0
        for member in members:
            rows = slice(start, start + member.weight.shape[0])
            start, weight, step = rows.stop, rounded[rows], steps[rows]
            scale = step.reshape(member.scale.shape) if form.weight == "int4" else member.scale
            found.append(replace(member, weight=weight, scale=scale))
    return found


def _exported(module: Any, scaled: _Scaled) -> dict[str, torch.Tensor]:
    """Return the tensors that ModelOpt writes for a calibrated module."""
    from modelopt.torch.export import quant_utils

    form, scale = scaled.linear.form, scaled.scale
    name = quant_utils.get_quantization_format(module)
    divisor = scale.squeeze() if form.granularity == "tensor" else scale
    found = {
        "weight": quant_utils.to_quantized_weight(
            scaled.weight, divisor, name, scaled.scale_2, form.block_size or None
        ),
        "weight_scale": scale,
    }
    if scaled.scale_2 is not None:
        found["weight_scale_2"] = scaled.scale_2
    if scaled.linear.input_amax is not None:
        found["input_scale"] = quant_utils.get_activation_scaling_factor(module)
    shapes = form.tensors(*scaled.weight.shape)
    return {suffix: value.reshape(shapes[suffix][1]).cpu().contiguous() for suffix, value in found.items()}
