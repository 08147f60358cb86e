"""Holds what ModelOpt's two descriptions of a checkpoint say against each other and against its tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn

from edgellm_core.quantization.errors import ContradictoryQuantizationError
from edgellm_core.quantization.module_lists import by_wildcard, require_unlisted

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from edgellm_core.checkpoint.tensors import TensorIndex

NARROW: Final = ("F8_E4M3", "I8", "U8")
"""Element types of weights that mean nothing without a scale."""

CACHE_ENDINGS: Final = (".k_scale", ".v_scale")


def require_one_description(directory: Path, described: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose two descriptions differ.

    Args:
        directory: the checkpoint.
        described: ``quantization`` of hf_quant_config.json; empty for no file.
        own: ``quantization_config`` of config.json; empty for none.

    Raises:
        ContradictoryQuantizationError: naming the key and both values.
    """
    if not described or not own:
        return
    if "quant_algo" not in own:
        method = own.get("quant_method")
        _contradict(
            directory, f"quant_method is {method!r} in config.json, and there is ModelOpt's hf_quant_config.json"
        )
    pairs = {
        "quant_algo": (described.get("quant_algo"), own["quant_algo"]),
        "group_size": (described.get("group_size"), own.get("group_size") or described.get("group_size")),
        "kv_cache_quant_algo": (described.get("kv_cache_quant_algo"), cache_algorithm(own)),
    }
    for key, (first, second) in pairs.items():
        if first != second:
            _contradict(directory, f"{key} is {first!r} in hf_quant_config.json and {second!r} in config.json")


def cache_algorithm(own: Mapping[str, Any]) -> str | None:
    """Return the name of the cache's form in config.json, which describes FP8 as compressed-tensors does."""
    scheme = own.get("kv_cache_scheme") or own.get("kv_cache_quant_algo")
    if isinstance(scheme, dict) and (scheme.get("num_bits"), scheme.get("type")) == (8, "float"):
        return "FP8"
    return str(scheme) if scheme else None


def require_tensors_that_fit(
    directory: Path,
    sections: Collection[Mapping[str, Any]],
    quantization: Mapping[str, Any],
    quantized: Collection[str],
    tensors: TensorIndex,
) -> None:
    """Refuse a description that the tensors contradict.

    Args:
        directory: the checkpoint.
        sections: both descriptions.
        quantization: the one that counts.
        quantized: paths of the layers that have a ``weight_scale``.
        tensors: all tensors.

    Raises:
        ContradictoryQuantizationError: naming the layer and what is said of it.
    """
    algorithm, known = quantization["quant_algo"], set(quantized)
    for section in sections:
        for key in ("exclude_modules", "ignore"):
            require_unlisted(directory, key, section.get(key), quantized, by_wildcard)
    if algorithm is not None and not quantized:
        _contradict(directory, f"quant_algo is {algorithm!r}, and no layer has a weight_scale")
    for module in quantization.get("quantized_layers") or {}:
        if module not in known:
            _contradict(directory, f"quantized_layers names {module!r}, which has no weight_scale")
    for name, entry in tensors.items():
        plain = name.endswith(".weight") and name.removesuffix(".weight") not in known
        if plain and entry.element_type in NARROW and len(entry.shape) > 1:
            _contradict(directory, f"{name!r} is of type {entry.element_type}, and has no weight_scale")
    factors = any(name.endswith(".pre_quant_scale") for name in tensors)
    if quantization.get("pre_quant_scale") and not factors:
        _contradict(directory, "pre_quant_scale is true, and no layer has one")
    cache = quantization.get("kv_cache_quant_algo")
    if cache is not None and not any(name.endswith(CACHE_ENDINGS) for name in tensors):
        _contradict(directory, f"kv_cache_quant_algo is {cache!r}, and no layer has k_scale and v_scale")


def _contradict(directory: Path, problem: str) -> NoReturn:
    raise ContradictoryQuantizationError(directory, problem)
