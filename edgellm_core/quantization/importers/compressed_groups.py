"""What config.json says of a compressed-tensors checkpoint: the settings of each layer, and which are known."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.quantization.known_settings import (
    COMPRESSED_GROUP,
    COMPRESSED_PART,
    COMPRESSED_TENSORS,
    require_known_settings,
)
from edgellm_core.quantization.module_lists import by_name, require_unlisted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgellm_core.quantization.importers.source import ForeignCheckpoint

FP8_FORMATS: Final = ("float-quantized", "naive-quantized")
UNKNOWN_SECTIONS: Final = ("sparsity_config", "transform_config")
"""Sections of the settings that change the math; empty where they are not used."""

STATIC_FLOAT8: Final = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False}
"""Inputs and caches that are taken: one scale, known in advance."""

ORDERED: Final = ("group", "dynamic")
"""Values of ``actorder`` under which a layer has ``weight_g_idx`` (compressed-tensors 0.12, ``ActivationOrdering``)."""


def require_known(source: ForeignCheckpoint) -> None:
    """Refuse settings that can't be represented, by name.

    Raises:
        UnsupportedQuantizationError: naming them.
        ContradictoryQuantizationError: they are no settings.
    """
    settings, tool = source.settings, "compressed-tensors"
    require_known_settings(source.directory, tool, settings, COMPRESSED_TENSORS)
    for section in UNKNOWN_SECTIONS:
        found = settings.get(section)
        if found and not (isinstance(found, dict) and found.get("format") == "dense"):
            source.refuse(f"compressed-tensors with {section}")
    for group in groups(source).values():
        require_known_settings(source.directory, tool, group, COMPRESSED_GROUP)
        for part in ("weights", "input_activations"):
            require_known_settings(source.directory, tool, group.get(part) or {}, COMPRESSED_PART)
        _require_known(source, group, group.get("format") or settings.get("format"))


def groups(source: ForeignCheckpoint) -> Mapping[str, Mapping[str, Any]]:
    """Return ``config_groups``."""
    found = source.settings.get("config_groups")
    if not isinstance(found, dict) or not found:
        source.contradict(f"'config_groups' must describe groups of layers and is {found!r}")
    for name, group in found.items():
        if isinstance(group, list):
            source.refuse(f"compressed-tensors with the preset {name!r} instead of its settings")
        parts = [group.get(part) for part in ("weights", "input_activations")] if isinstance(group, dict) else [name]
        if not all(part is None or isinstance(part, dict) for part in parts):
            source.contradict(f"group {name!r} of 'config_groups' must hold settings and is {group!r}")
    return found


def group_of(source: ForeignCheckpoint, module: str) -> Mapping[str, Any]:
    """Return the group of settings that a layer belongs to: by its path, by an expression, or else by its class.

    Raises:
        ContradictoryQuantizationError: none means it, or several do.
    """
    found = groups(source)
    named = [group for group in found.values() if any(_names(source, t, module) for t in _targets(source, group))]
    if not named:
        by_class = "Linear"
        named = [group for group in found.values() if by_class in _targets(source, group)]
    if len(named) != 1:
        how_many = "several groups of config_groups mean" if named else "no group of config_groups means"
        source.contradict(f"{how_many} {module!r}, which holds a quantized weight")
    return named[0]


def require_unignored(source: ForeignCheckpoint, modules: Sequence[str]) -> None:
    """Refuse quantized layers that ``ignore`` leaves unquantized."""
    require_unlisted(source.directory, "ignore", source.settings.get("ignore"), modules, by_name)


def require_static_cache(source: ForeignCheckpoint) -> bool:
    """Return whether the KV cache is rounded.

    Raises:
        UnsupportedQuantizationError: otherwise than to FP8 by one scale.
    """
    scheme = source.settings.get("kv_cache_scheme")
    if not scheme:
        return False
    if not isinstance(scheme, dict):
        source.contradict(f"'kv_cache_scheme' must hold settings and is {scheme!r}")
    if not _is_static_float8(scheme):
        kind = f"{scheme.get('num_bits')}-bit {scheme.get('type')} by {scheme.get('strategy')}"
        source.refuse(f"compressed-tensors with a KV cache in {kind}")
    return True


def _targets(source: ForeignCheckpoint, group: Mapping[str, Any]) -> list[str]:
    targets = group.get("targets")
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        source.contradict(f"'targets' of 'config_groups' must be a list of names and is {targets!r}")
    return targets


def _names(source: ForeignCheckpoint, target: str, module: str) -> bool:
    try:
        return by_name(target, module)
    except re.error as error:
        source.contradict(f"'targets' has {target!r}, which is no regular expression ({error})")


def _is_static_float8(settings: Mapping[str, Any]) -> bool:
    known = all(settings.get(key) == value for key, value in STATIC_FLOAT8.items())
    return known and settings.get("symmetric") in (None, True)


def _require_known(source: ForeignCheckpoint, group: Mapping[str, Any], layout: Any) -> None:
    weights, inputs = group.get("weights") or {}, group.get("input_activations")
    if group.get("output_activations"):
        source.refuse("compressed-tensors with rounded outputs")
    kind = f"{weights.get('num_bits')}-bit {weights.get('type')} weights by {weights.get('strategy')}"
    number, strategy = (weights.get("num_bits"), weights.get("type")), weights.get("strategy")
    if layout == "pack-quantized" and number == (4, "int"):
        if inputs or strategy not in ("group", "channel"):
            source.refuse(f"compressed-tensors {layout} with {kind}" + (" and rounded inputs" if inputs else ""))
    elif layout in FP8_FORMATS and number == (8, "float"):
        if strategy not in ("tensor", "channel"):
            source.refuse(f"compressed-tensors {layout} with {kind}")
        if not inputs or not _is_static_float8(inputs):
            source.refuse(f"compressed-tensors {layout} with {_described(inputs)}")
    else:
        source.refuse(f"compressed-tensors {layout} with {kind}")


def _described(inputs: Mapping[str, Any] | None) -> str:
    if not inputs:
        return "inputs that are not rounded"
    how = "dynamically" if inputs.get("dynamic") else "statically"
    return f"inputs rounded {how} by {inputs.get('strategy')}"
