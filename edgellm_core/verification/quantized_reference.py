"""Makes transformers' own model round what a quantized checkpoint rounds: inputs of layers, keys and values."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any, Final

from torch import nn
from transformers import DynamicCache

from edgellm_core.tracing.layers import find_stack
from edgellm_core.verification.dequantize import rounded
from edgellm_core.verification.errors import ReferenceLoadError
from edgellm_core.verification.input_rounding import input_transform, static_rounding
from edgellm_core.verification.quantized_weights import KV_SCALES

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from edgellm_core.quantization.layout import QuantizationLayout
    from edgellm_core.verification.input_rounding import Rounding
    from edgellm_core.verification.quantized_weights import StoredTensors
    from edgellm_core.verification.subject import Subject

KV_SCALE: Final = re.compile(r".*\.(?P<layer>\d+)\.\w+\.(?P<projection>[kv])_proj\.(?P=projection)_scale")
"""Name of the scale of a layer's keys or values, as ModelOpt writes it."""


def own_head(config: PreTrainedConfig, model: PreTrainedModel, layout: QuantizationLayout) -> PreTrainedConfig:
    """Return a copy of a config whose head has a weight of its own where that is quantized.

    Args:
        config: the config.
        model: a model of it, without weights.
        layout: what is quantized.
    """
    config = copy.deepcopy(config)
    head = model.get_output_embeddings()
    if any(name in layout.linears for name, module in model.named_modules() if module is head):
        config.tie_word_embeddings = False
        config.get_text_config().tie_word_embeddings = False
    return config


def install_rounding(model: PreTrainedModel, subject: Subject, stored: StoredTensors, scale_type: torch.dtype) -> None:
    """Round inputs of quantized layers, and keys and values before they enter the cache.

    Raises:
        ReferenceLoadError: transformers has no linear layer of that name, or a scale is missing.
        RoundingReferenceMissingError: ModelOpt is not installed and would have to round.
    """
    assert subject.layout is not None  # for mypy
    modules = dict(model.named_modules())
    path, _ = find_stack(model)
    for name, form in subject.layout.linears.items():
        if _is_cut_off(name, path, subject.layers):
            continue
        transform = input_transform(form, stored.of_linear(name, form, weight=False), scale_type)
        if transform is None:
            continue
        if not isinstance(modules.get(name), nn.Linear):
            raise ReferenceLoadError(subject.directory, f"it has no linear layer {name!r} whose input could be rounded")
        modules[name].register_forward_pre_hook(_hook(transform))
    if subject.layout.kv_cache is not None:
        scales = _kv_roundings(subject, stored, scale_type)
        model.register_forward_pre_hook(_with_cache(model, scales), with_kwargs=True)


def _is_cut_off(name: str, path: str, layers: int) -> bool:
    """Return whether a layer belongs to a decoder layer that the cut model lacks."""
    number = name.removeprefix(f"{path}.").split(".")[0]
    return bool(path) and name.startswith(f"{path}.") and int(number) >= layers


def _hook(transform: Rounding) -> Any:
    def before(_module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return transform(arguments[0]), *arguments[1:]

    return before


class RoundedCache(DynamicCache):
    """transformers' own cache, which rounds keys and values before it keeps and returns them."""

    def __init__(self, config: PreTrainedConfig, roundings: Mapping[tuple[int, str], Rounding]) -> None:
        super().__init__(config=config)
        self._roundings = roundings

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the rounded keys and values [batch, heads, seq, head_dim] of a layer; return all of it."""
        keys = self._roundings[layer_idx, "k"](key_states)
        values = self._roundings[layer_idx, "v"](value_states)
        return super().update(keys, values, layer_idx, *args, **kwargs)


def _kv_roundings(subject: Subject, stored: StoredTensors, scale_type: torch.dtype) -> dict[tuple[int, str], Rounding]:
    found = {}
    for name in subject.tensors:
        match = KV_SCALE.fullmatch(name)
        if match and int(match["layer"]) < subject.layers:
            scale = rounded(stored.read(name), scale_type).reshape(())
            found[int(match["layer"]), match["projection"]] = static_rounding(True, scale)
    for layer in range(subject.layers):
        for suffix in KV_SCALES:
            if (layer, suffix[0]) not in found:
                raise ReferenceLoadError(subject.directory, f"missing {suffix} of decoder layer {layer}")
    return found


def _with_cache(model: PreTrainedModel, roundings: Mapping[tuple[int, str], Rounding]) -> Any:
    def before(_module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if named.get("past_key_values") is None:
            named = {**named, "past_key_values": RoundedCache(model.config, roundings)}
        return arguments, named

    return before
