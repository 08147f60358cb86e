"""Shrinks a config to its twin's: small widths, one or two layers of each kind, every flag and length as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from edgellm_core.errors import EdgellmError
from edgellm_core.tracing.modeling_code import quiet_libraries, refused_as_untraceable
from edgellm_core.verification.twin.errors import TwinNotMadeError
from edgellm_core.verification.twin.layers import layer_choices, layer_kinds, with_layers
from edgellm_core.verification.twin.original import on_meta, original_of, randomize
from edgellm_core.verification.twin.sizes import WAYS, shrunk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from transformers import PreTrainedConfig, PreTrainedModel

    from edgellm_core.verification.twin.layers import Kind
    from edgellm_core.verification.twin.sizes import Fields

MOST_PARAMETERS: Final = 60_000_000
"""Largest twin: 240 MB, and about a second for a forward of some dozens of tokens."""

TRIAL_TOKENS: Final = 5


@dataclass(frozen=True, kw_only=True)
class SmallModel:
    """A shrunk model with random weights.

    Attributes:
        fields: contents of its config.json.
        make_config: from such contents to transformers' config.
        model: transformers' own, in float32.
        untouched: keys of the original config that were shrunk, and so are no lengths.
    """

    fields: Fields
    make_config: Callable[[Mapping[str, Any]], PreTrainedConfig]
    model: PreTrainedModel


def shrink(config: PreTrainedConfig, make_config: Callable[[Mapping[str, Any]], PreTrainedConfig]) -> SmallModel:
    """Shrink a model as far as transformers still builds it with the same kinds of layers, and runs it.

    Args:
        config: of the whole model; not changed.
        make_config: from contents of a config.json to the config that is traced.

    Raises:
        TwinNotMadeError: there is no small one.
    """
    with quiet_libraries():
        kinds = layer_kinds(on_meta(config))
        reasons: list[str] = []
        for fields, wanted in _candidates(config, kinds):
            model = _tried(fields, wanted, make_config, reasons)
            if model is not None:
                return SmallModel(fields=fields, make_config=make_config, model=model)
    raise TwinNotMadeError(config.model_type, reasons[-1] if reasons else "it has no layers")


def _candidates(config: PreTrainedConfig, kinds: Sequence[Kind]) -> Iterator[tuple[Fields, list[Kind]]]:
    """Yield contents of config.json with the kinds of layers that the model of each must have."""
    fields = {key: value for key, value in config.to_dict().items() if key != "quantization_config"}
    names = ("num_hidden_layers", config.get_text_config().attribute_map.get("num_hidden_layers", "num_hidden_layers"))
    for way in WAYS:
        for layers in layer_choices(kinds):
            wanted = [kinds[index] for index in layers]
            for cut in with_layers(shrunk(fields, way), layers, len(kinds), names):
                yield cut, wanted


def _tried(
    fields: Fields,
    wanted: Sequence[Kind],
    make_config: Callable[[Mapping[str, Any]], PreTrainedConfig],
    reasons: list[str],
) -> PreTrainedModel | None:
    """Return the model of a config; None, with the reason, where it is none of a twin's."""
    try:
        with refused_as_untraceable("A small model", "transformers"):
            config = make_config(fields)
            empty = on_meta(config)
            if layer_kinds(empty) != list(wanted):
                reasons.append("its layers are of other kinds where it is small")
                return None
            if sum(parameter.numel() for parameter in empty.parameters()) > MOST_PARAMETERS:
                reasons.append("its widths can't be shrunk")
                return None
            model = original_of(config)
            randomize(model)
            ids = torch.arange(TRIAL_TOKENS)[None]
            with torch.inference_mode():
                logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    except EdgellmError as error:
        reasons.append(str(error.__cause__ or error))
        return None
    if not bool(torch.isfinite(logits).all()):
        reasons.append("its logits are not finite with random weights")
        return None
    return model
