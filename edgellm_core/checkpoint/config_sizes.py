"""Sizes that config.json states against the tensors that exist, before a model of these sizes is made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.checkpoint.dimensions import ALIASES
from edgellm_core.checkpoint.errors import ConfigSizeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edgellm_core.checkpoint.tensors import TensorIndex

LONGEST_CONTEXT: Final = 1 << 31
"""Tokens; the longest context of a real model is ten million, and positions of 2^31 fit no runtime's int32."""

MORE_LAYERS: Final = (4, 64)
"""A config may name so many times the layers that have tensors, and so many more: Zamba's layers share weights."""

MAY_BE_ZERO: Final = frozenset({"intermediate_size"})


def require_sizes(path: Path, config: Mapping[str, Any], tensors: TensorIndex) -> None:
    """Refuse sizes that no model of these tensors has; a layer, and a table of angles, cost memory before any weight.

    Args:
        path: config.json.
        config: its contents.
        tensors: of the checkpoint; where there are none, nothing is compared.

    Raises:
        ConfigSizeError: naming the key, the value, and what bounds it.
    """
    if not tensors:
        return
    largest = max(math.prod(entry.shape) for entry in tensors.values())
    layers = 1 + max((int(part) for name in tensors for part in name.split(".") if _is_number(part)), default=0)
    bounds = dict.fromkeys(ALIASES, (largest, f"its largest tensor has {largest} numbers"))
    times, more = MORE_LAYERS
    bounds["layers"] = (times * layers + more, f"tensors of {layers} layers exist")
    bounds["context_length"] = (LONGEST_CONTEXT, "positions have 32 bits")
    for key, field, value in _sizes(config):
        if field == "context_length" and value <= 0:
            continue  # some write that for unbounded
        least = 0 if field in MAY_BE_ZERO else 1
        most, reason = bounds[field]
        if value < least:
            raise ConfigSizeError(path, key, f"at least {least}", value, "a model can't be made of it")
        if value > most:
            raise ConfigSizeError(path, key, f"at most {most}", value, reason)


def _sizes(config: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Yield key, field and value of every size, also of each layer."""
    text = config.get("text_config")
    for part in (config, *([text] if isinstance(text, Mapping) else [])):
        for field, keys in ALIASES.items():
            for key in keys:
                value = part.get(key)
                for one in value if isinstance(value, list) else [value]:
                    if type(one) is int:
                        yield key, field, one


def _is_number(part: str) -> bool:
    return part.isascii() and part.isdigit() and len(part) <= 6  # no model has a million layers
