"""Types of the keys of config.json that are read before transformers' own config class checks them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgellm_core.checkpoint.dimensions import ALIASES
from edgellm_core.checkpoint.errors import ConfigValueError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SECTIONS: Final = ("text_config", "quantization_config")

NUMBERS: Final = tuple(key for field, keys in ALIASES.items() if field not in ("heads", "kv_heads") for key in keys)
"""Sizes; the numbers of heads are lists where layers differ (OpenELM)."""


def require_types(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse values of a type that none of a model's sizes and names has; null is taken as not set.

    Args:
        path: config.json.
        config: its contents.

    Raises:
        ConfigValueError: naming key and value.
    """
    wanted: dict[str, tuple[str, tuple[type, ...]]] = {"model_type": ("a name", (str,))}
    wanted |= dict.fromkeys(SECTIONS, ("an object", (dict,)))
    wanted |= dict.fromkeys(NUMBERS, ("a number", (int, float, list)))
    wanted |= dict.fromkeys(ALIASES["context_length"], ("a number", (int, float)))
    for key, (description, types) in wanted.items():
        value = config.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, types)):
            raise ConfigValueError(path, key, description, value)
