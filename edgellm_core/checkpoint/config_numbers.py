"""Numbers of config.json that no model can be computed with, whatever its family: they would only show as NaN."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.checkpoint.errors import ConfigValueError

if TYPE_CHECKING:
    from pathlib import Path

EPSILON_ENDS: Final = ("_eps", "_epsilon")
"""Ends of the keys of what norms add to a variance; ``eps`` and ``epsilon`` are such keys themselves."""

ROPE_OWNERS: Final = ("rope_parameters", "rope_scaling")

BASES: Final = ("rope_theta", "rope_local_base_freq")
"""Bases of RoPE, which config.json of transformers 4 has outside of its parameters; a list where layers differ."""

POSITIVE: Final = (*BASES, "factor", "attention_factor")
"""Numbers of RoPE that are divided by, or taken a power or a logarithm of (``modeling_rope_utils``)."""

FACTOR_LISTS: Final = ("short_factor", "long_factor")


def require_numbers(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse epsilons below zero, and bases and factors of RoPE that are not above it; null is taken as not set.

    Args:
        path: config.json.
        config: its contents; parts of it are looked at, too.

    Raises:
        ConfigValueError: naming key and value.
    """
    for key, value in config.items():
        if value is None:
            continue
        if key in ROPE_OWNERS and isinstance(value, Mapping):
            _require_rope(path, key, value)
        elif isinstance(value, Mapping) and key.endswith("_config"):
            require_numbers(path, value)
        elif key in BASES and not _are_positive(value):
            raise ConfigValueError(path, key, "a number above 0", value)
        elif _is_epsilon(key) and not (_is_number(value) or value == 0):
            raise ConfigValueError(path, key, "a number of at least 0", value)


def _require_rope(path: Path, owner: str, parameters: Mapping[str, Any]) -> None:
    """Check the parameters of one RoPE, or of one for each type of layer."""
    for key, value in parameters.items():
        name = f"{owner}.{key}"
        if isinstance(value, Mapping):
            _require_rope(path, name, value)
        elif value is None:
            continue
        elif key in POSITIVE and not _are_positive(value):
            raise ConfigValueError(path, name, "a number above 0", value)
        elif key in FACTOR_LISTS and not (isinstance(value, list) and _are_positive(value)):
            raise ConfigValueError(path, name, "a list of numbers above 0", value)
        elif key in ("rope_type", "type") and not isinstance(value, str):
            raise ConfigValueError(path, name, "a name", value)


def _is_epsilon(key: str) -> bool:
    return key in ("eps", "epsilon") or key.endswith(EPSILON_ENDS)


def _are_positive(value: Any) -> bool:
    """Say whether a value is a number above 0, or a list of such."""
    return all(map(_is_number, value)) if isinstance(value, list) else _is_number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
