"""Which linear layers are quantized, in which form, and why the others are not."""

from __future__ import annotations

import copy
import fnmatch
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from edgellm_core.calibration.errors import BlockSizeError, NothingToQuantizeError, OddOutputsError
from edgellm_core.errors import InvalidSettingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from edgellm_core.calibration.request import QuantizationRequest
    from edgellm_core.calibration.stack import DecoderStack
    from edgellm_core.contract import QuantizationScheme
    from edgellm_core.quantization.formats import LinearFormat

PACKED_PAIRS: Final = ("int4", "uint4")
"""Kinds of weights that hold two outputs in a byte."""

USUAL: Final = "embeddings, and heads without --lm-head, stay in floats"


@dataclass(frozen=True, kw_only=True)
class QuantizationPlan:
    """What is going to be quantized.

    Attributes:
        linears: form of each linear layer by the path of its module.
        smoothed: paths whose inputs are scaled before rounding.
        compensated: paths whose weights take up one another's errors.
        head: path of the head, if it is quantized.
        excluded: why a layer stays in floats, by path.
        names: checkpoint's name of each path in ``linears`` and ``excluded``, where it differs.
    """

    linears: Mapping[str, LinearFormat]
    smoothed: frozenset[str]
    compensated: frozenset[str]
    head: str | None
    excluded: Mapping[str, str]
    names: Mapping[str, str] = field(default_factory=dict)

    def notes(self) -> list[str]:
        """Return what the user should know: which layers stay in floats and why, and what shares a scale."""
        reasons: dict[str, list[str]] = {}
        for path, reason in self.excluded.items():
            if reason != USUAL:
                reasons.setdefault(reason, []).append(path)
        notes = [
            f"Layers that stay in floats: {len(paths)}, {paths[0]}{', …' if len(paths) > 1 else ''} ({reason})."
            for reason, paths in reasons.items()
        ]
        blocks = sorted({form.block_size for form in self.linears.values() if form.block_size})
        if blocks:
            notes.append(f"One scale for {' or '.join(map(str, blocks))} inputs.")
        return notes

    def name(self, path: str) -> str:
        """Return the checkpoint's name of a module, without ``.weight``."""
        return self.names.get(path, path)


def make_plan(stack: DecoderStack, request: QuantizationRequest) -> QuantizationPlan:
    """Choose the layers and their forms.

    Raises:
        InvalidSettingError: a pattern of ``--skip`` matches nothing, or the group size is none of the scheme's.
        BlockSizeError: a layer's inputs are no multiple of the block size.
        OddOutputsError: two outputs share a byte, and a layer has an odd number.
        NothingToQuantizeError: no layer is left.
    """
    linears = linear_modules(stack)
    excluded, names = _left_out(stack, linears, request)
    chosen = {path: module for path, module in linears.items() if path not in excluded}
    if not chosen:
        raise NothingToQuantizeError(type(stack.model).__name__, request.scheme.name, sorted(set(excluded.values())))
    block = choose_block_size(request.scheme, chosen, request.group_size)
    forms = {path: request.scheme.linear_format(block) for path in chosen}
    smoothed = frozenset(forms) if request.scheme.smoothing != "none" else frozenset()
    compensated = frozenset(forms if (request.rounding or request.scheme.rounding) == "compensated" else ())
    head = _path_of(stack, stack.model.get_output_embeddings())
    quantized_head = head if request.lm_head is not None else None
    if request.lm_head is not None and head is not None:
        block = choose_block_size(request.lm_head, {head: stack.model.get_submodule(head)}, None)
        forms[head] = request.lm_head.linear_format(block)
        if stack.reader.is_own(f"{head}.weight"):
            names[head] = stack.reader.tensor_names(f"{head}.weight")[0].removesuffix(".weight")
    _refuse_odd_outputs(request.scheme.name, forms, stack)
    usual = (_path_of(stack, stack.model.get_input_embeddings()), None if quantized_head else head)
    return QuantizationPlan(
        linears=forms,
        smoothed=smoothed,
        compensated=compensated,
        head=quantized_head,
        excluded={**excluded, **{path: USUAL for path in usual if path is not None}},
        names=names,
    )


def linear_modules(stack: DecoderStack) -> dict[str, nn.Linear]:
    """Return the linear layers of all decoder layers by path."""
    from torch import nn

    return {
        f"{stack.layer_path(index)}.{name}": module
        for index, layer in enumerate(stack.layers)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear)
    }


def _left_out(
    stack: DecoderStack, linears: Mapping[str, nn.Linear], request: QuantizationRequest
) -> tuple[dict[str, str], dict[str, str]]:
    """Return why layers stay in floats by path, and the checkpoint's names of the rest where they differ."""
    excluded: dict[str, str] = {}
    names: dict[str, str] = {}
    for pattern in request.skip:
        matched = fnmatch.filter(linears, pattern)
        if not matched:
            example = next(iter(linears), "model.layers.0.mlp.up_proj")
            raise InvalidSettingError(
                "--skip", "must match a linear layer of the model", repr(pattern), f"Layers are named like {example!r}."
            )
        excluded |= dict.fromkeys(matched, f"--skip {pattern}")
    routers = _patterns_of_modelopt()
    owners: dict[str, str] = {}
    for path in linears:
        sources = stack.reader.tensor_names(f"{path}.weight")
        owner = owners.setdefault(sources[0], path)
        if any(fnmatch.fnmatch(f"{path}.weight_quantizer", pattern) for pattern in routers):
            excluded.setdefault(path, "ModelOpt leaves such layers in floats")
        elif len(sources) > 1:
            excluded.setdefault(path, "its weight is joined from several tensors")
        elif owner != path:
            excluded.setdefault(path, f"it shares its weight with {owner}")
            excluded.setdefault(owner, f"it shares its weight with {path}")
        if len(sources) == 1 and sources[0] != f"{path}.weight":
            names[path] = sources[0].removesuffix(".weight")
    return excluded | _fused_experts(stack), names


def _patterns_of_modelopt() -> list[str]:
    """Return ModelOpt's patterns of quantizers that stay off: routers, gates and what small kernels compute."""
    from edgellm_core.calibration.rounding import quiet_modelopt

    with quiet_modelopt():
        import modelopt.torch.quantization as mtq

        entries = copy.deepcopy(mtq.FP8_DEFAULT_CFG["quant_cfg"])
    patterns = [entry["quantizer_name"] for entry in entries if entry.get("enable") is False]
    return [pattern for pattern in patterns if pattern != "*"]


def _fused_experts(stack: DecoderStack) -> dict[str, str]:
    """Return modules that hold the weights of all experts in one parameter."""
    return {
        f"{stack.layer_path(index)}.{name}": "the weights of its experts are one parameter"
        for index, layer in enumerate(stack.layers)
        for name, module in layer.named_modules()
        if any(parameter.dim() == 3 for parameter in module.parameters(recurse=False)) and "expert" in name
    }


def _path_of(stack: DecoderStack, wanted: nn.Module | None) -> str | None:
    return next((path for path, module in stack.model.named_modules() if module is wanted), None)


def choose_block_size(scheme: QuantizationScheme, linears: Mapping[str, nn.Module], asked: int | None) -> int:
    """Return the number of inputs that share a scale: what was asked for, or the first that divides every layer.

    Raises:
        InvalidSettingError: the scheme has no such block size.
        BlockSizeError: a layer's inputs are no multiple of it.
    """
    sizes = scheme.block_sizes
    if asked is not None:
        if asked not in sizes:
            remedy = f"Leave it out, or give one of {', '.join(map(str, sizes))}." if sizes else "Leave it out."
            raise InvalidSettingError("--group-size", f"must be one of {scheme.name}'s", asked, remedy)
        sizes = (asked,)
    if not sizes:
        return 0
    widths = {path: _inputs(module) for path, module in linears.items()}
    fitting = [size for size in scheme.block_sizes if all(width % size == 0 for width in widths.values())]
    for size in sizes:
        if size in fitting:
            return size
    uneven = [(path, width) for path, width in widths.items() if width % min(sizes)]
    raise BlockSizeError(scheme.name, sizes, uneven, fitting)


def _inputs(module: nn.Module) -> int:
    return int(module.weight.shape[1])  # type: ignore[index]  # linear layers only


def _refuse_odd_outputs(scheme: str, forms: Mapping[str, LinearFormat], stack: DecoderStack) -> None:
    odd = [
        path
        for path, form in forms.items()
        if form.weight in PACKED_PAIRS and stack.model.get_submodule(path).weight.shape[0] % 2  # type: ignore[index]
    ]
    if odd:
        raise OddOutputsError(scheme, odd)
