"""Makes transformers' own model round what a quantized checkpoint rounds: inputs of layers, keys and values."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import DynamicCache

from edgellm_core.runtime.paged.session import EMBEDS
from edgellm_core.tracing.layers import find_stack
from edgellm_core.verification.dequantize import rounded
from edgellm_core.verification.errors import ReferenceLoadError
from edgellm_core.verification.input_rounding import input_transform, static_rounding
from edgellm_core.verification.quantized_weights import KV_SCALES
from edgellm_core.verification.reference import ELEMENT_TYPES
from edgellm_core.verification.rounding_points import KV_SCALE
from edgellm_core.verification.scale_range import require_scales_that_fit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from transformers import PreTrainedConfig, PreTrainedModel

    from edgellm_core.quantization.layout import QuantizationLayout
    from edgellm_core.verification.input_rounding import Rounding
    from edgellm_core.verification.quantized_weights import StoredTensors
    from edgellm_core.verification.subject import Subject
    from edgellm_core.verification.synchronized import Synchronizer

    CacheRoundings = Mapping[tuple[int, str], tuple[str, Rounding]]
    """Layer, and ``k`` or ``v`` → name of the scale, and the rounding with it."""


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


def install_rounding(
    model: PreTrainedModel,
    subject: Subject,
    stored: StoredTensors,
    synchronizer: Synchronizer,
) -> Callable[[], DynamicCache] | None:
    """Round inputs of quantized layers, keys and values before they enter the cache, and embeddings from a table.

    Args:
        model: the original.
        subject: what is compared.
        stored: its tensors.
        synchronizer: sees, and may replace, every rounded number.

    Returns:
        What makes a cache that rounds; None where keys and values are not rounded.

    Raises:
        ReferenceLoadError: transformers has no linear layer of that name, or a scale is missing.
        ScaleRangeError: the graph is float16, which can't hold a scale.
        RoundingReferenceMissingError: ModelOpt is not installed and would have to round.
    """
    assert subject.layout is not None  # for mypy
    exact = subject.target.exact_cache_scales
    scale_type: torch.dtype = getattr(torch, ELEMENT_TYPES[subject.element_type])
    if scale_type == torch.float16:
        kept = KV_SCALES if exact else ()
        require_scales_that_fit(subject.layout, stored, [name for name in subject.tensors if not name.endswith(kept)])
    modules = dict(model.named_modules())
    _, layers = find_stack(model)
    if EMBEDS in subject.rounding_points:
        round_embedded(layers[0], synchronizer, scale_type)
    for name, form in subject.layout.linears.items():
        transform = input_transform(form, stored.of_linear(name, form, weight=False), scale_type)
        if transform is None:
            continue
        module = modules.get(name, modules.get(f"{model.base_model_prefix}.{name}"))
        if not isinstance(module, nn.Linear):
            raise ReferenceLoadError(subject.directory, f"it has no linear layer {name!r} whose input could be rounded")
        module.register_forward_pre_hook(_hook(name, transform, synchronizer))
    if subject.layout.kv_cache is None:
        return None
    roundings = _kv_roundings(subject, stored, torch.float32 if exact else scale_type)
    return lambda: RoundedCache(model.config, roundings, synchronizer)


def round_embedded(layer: nn.Module, synchronizer: Synchronizer, element_type: torch.dtype = torch.float16) -> None:
    """Round what enters the first layer, as a table is rounded that holds a factor too.

    Args:
        layer: the first decoder layer.
        synchronizer: sees, and may replace, every rounded number.
        element_type: type of the table.
    """
    layer.register_forward_pre_hook(_embedded(element_type, synchronizer), with_kwargs=True)


def _hook(place: str, transform: Rounding, synchronizer: Synchronizer) -> Any:
    def before(_module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return synchronizer.settle(place, transform(arguments[0])), *arguments[1:]

    return before


def _embedded(element_type: torch.dtype, synchronizer: Synchronizer) -> Any:
    """Return a hook of the first layer that rounds what goes in, as a table is rounded that holds a factor too."""

    def before(_module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        own = named["hidden_states"] if "hidden_states" in named else arguments[0]
        settled = synchronizer.settle(EMBEDS, rounded(own, element_type))
        if "hidden_states" in named:
            return arguments, {**named, "hidden_states": settled}
        return (settled, *arguments[1:]), named

    return before


class RoundedCache(DynamicCache):
    """transformers' own cache, which rounds keys and values before it keeps and returns them."""

    def __init__(
        self,
        config: PreTrainedConfig,
        roundings: CacheRoundings,
        synchronizer: Synchronizer,
    ) -> None:
        super().__init__(config=config)
        self._roundings, self._synchronizer = roundings, synchronizer

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the rounded keys and values [batch, heads, seq, head_dim] of a layer; return all of it."""
        keys = self._rounded(layer_idx, "k", key_states)
        values = self._rounded(layer_idx, "v", value_states)
        return super().update(keys, values, layer_idx, *args, **kwargs)

    def _rounded(self, layer: int, kind: str, states: torch.Tensor) -> torch.Tensor:
        scale, rounding = self._roundings[layer, kind]
        order = self._synchronizer.key_order if kind == "k" else ()
        return self._synchronizer.settle(scale, rounding(states), sequence_axis=2, order=order)


def _kv_roundings(subject: Subject, stored: StoredTensors, scale_type: torch.dtype) -> CacheRoundings:
    found: dict[tuple[int, str], tuple[str, Rounding]] = {}
    for name in subject.tensors:
        match = KV_SCALE.fullmatch(name)
        if match:
            scale = rounded(stored.read(name), scale_type).reshape(())
            found[int(match["layer"]), match["kind"]] = name, static_rounding(True, scale)
    for layer in range(subject.depth):
        for suffix in KV_SCALES:
            if (layer, suffix[0]) not in found:
                raise ReferenceLoadError(subject.directory, f"missing {suffix} of decoder layer {layer}")
    return found
