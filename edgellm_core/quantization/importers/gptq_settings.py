"""What config.json says of a GPTQ checkpoint: label, settings of single layers, and what is not known."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.quantization.known_settings import GPTQ, require_known_settings
from edgellm_core.quantization.module_lists import by_boundary, require_unlisted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgellm_core.quantization.importers.source import ForeignCheckpoint

LABELS: Final = ("checkpoint_format", "format")
"""Keys of the label: AutoGPTQ's, and that of GPTQModel and transformers 5; some checkpoints have both."""

FORMATS: Final = ("gptq", "gptq_v2")

CHANGES_THE_MATH: Final = ("adapter", "rotation", "is_marlin_format")
"""Settings under which there is more than packed weights (GPTQModel: EoRA, QuaRot; AutoGPTQ: Marlin's order)."""


def zero_label(source: ForeignCheckpoint) -> str:
    """Return the format that the checkpoint calls itself; ``gptq`` where it says none, as transformers takes it.

    Raises:
        UnsupportedQuantizationError: another format.
        ContradictoryQuantizationError: two labels differ.
    """
    found = {key: source.settings[key] for key in LABELS if source.settings.get(key)}
    for key, label in found.items():
        if str(label).lower() not in FORMATS:
            source.refuse(f"GPTQ with {key} {label!r}")
    labels = {str(label).lower() for label in found.values()}
    if len(labels) > 1:
        source.contradict(" and ".join(f"{key} is {label!r}" for key, label in found.items()))
    return next(iter(labels), "gptq")


def require_known(source: ForeignCheckpoint) -> None:
    """Refuse what packed weights don't show.

    Raises:
        UnsupportedQuantizationError: naming it.
    """
    require_known_settings(source.directory, "GPTQ", source.settings, GPTQ)
    for key in CHANGES_THE_MATH:
        if source.settings.get(key):
            source.refuse(f"GPTQ with {key}")
    if source.settings.get("pack_dtype") not in (None, "int32"):
        source.refuse(f"GPTQ with pack_dtype {source.settings['pack_dtype']!r}")
    _require_four_bits(source, source.settings, "GPTQ")


def require_lists_that_fit(source: ForeignCheckpoint, modules: Sequence[str]) -> None:
    """Refuse packed layers that lists leave unquantized, and layers that they quantize and that hold plain weights.

    Args:
        source: the checkpoint.
        modules: paths of the layers with packed weights.

    Raises:
        ContradictoryQuantizationError: naming the setting and the layer.
    """
    settings, packed = source.settings, set(modules)
    unconverted = settings.get("modules_to_not_convert")
    require_unlisted(source.directory, "modules_to_not_convert", unconverted, modules, by_boundary)
    head = settings.get("lm_head")
    if head is not None and source.flag(settings, "lm_head", default=False) != ("lm_head" in packed):
        holds = "a packed" if "lm_head" in packed else "no packed"
        source.contradict(f"lm_head is {head}, and the head holds {holds} weight")
    listed = settings.get("modules_in_block_to_quantize")
    if listed is None:
        return
    names = _flat(source, listed)
    for name in source.tensors:
        module = name.rpartition(".")[0]
        inside = module != "lm_head" and any(module.endswith(f".{entry}") for entry in names)
        if name.endswith(".qweight") and not inside and module != "lm_head":
            source.contradict(f"modules_in_block_to_quantize lacks {module!r}, which holds a packed weight")
        if name.endswith(".weight") and inside:
            source.contradict(f"modules_in_block_to_quantize names {module!r}, which holds a plain weight")


def _flat(source: ForeignCheckpoint, listed: Any) -> list[str]:
    """Return the names of a list of lists of names (optimum), or of a plain list."""
    groups: list[Any] = listed if isinstance(listed, list) else [None]
    names: list[Any] = [name for group in groups for name in (group if isinstance(group, list) else [group])]
    if not all(isinstance(name, str) for name in names):
        source.contradict(f"'modules_in_block_to_quantize' must be lists of names and is {listed!r}")
    return names


def settings_of(source: ForeignCheckpoint, module: str) -> Mapping[str, Any]:
    """Return the settings of one quantized layer: those of the checkpoint, overridden by ``dynamic``.

    ``dynamic`` (GPTQModel) maps regular expressions of paths to settings; ``-:`` before one leaves its layers
    unquantized, ``+:`` means nothing. The first that matches counts.

    Raises:
        UnsupportedQuantizationError: other than four bits.
        ContradictoryQuantizationError: the settings leave the layer unquantized.
    """
    dynamic = source.settings.get("dynamic") or {}
    if not isinstance(dynamic, dict):
        source.contradict(f"'dynamic' must map expressions to settings and is {dynamic!r}")
    for pattern, overrides in dynamic.items():
        if not _matches(source, pattern.removeprefix("+:").removeprefix("-:"), module):
            continue
        if pattern.startswith("-:"):
            source.contradict(f"dynamic {pattern!r} leaves {module!r} unquantized, and it holds packed weights")
        require_known_settings(source.directory, f"GPTQ, in dynamic {pattern!r},", overrides or {}, GPTQ)
        settings = {**source.settings, **(overrides or {})}
        _require_four_bits(source, settings, f"GPTQ, for {module!r} by dynamic {pattern!r},")
        return settings
    return source.settings


def _matches(source: ForeignCheckpoint, pattern: str, module: str) -> bool:
    try:
        return re.match(pattern, module) is not None
    except re.error as error:
        source.contradict(f"dynamic has {pattern!r}, which is no regular expression ({error})")


def _require_four_bits(source: ForeignCheckpoint, settings: Mapping[str, Any], what: str) -> None:
    bits = settings.get("bits", 4)
    if isinstance(bits, bool) or bits != 4:
        source.refuse(f"{what} with {bits!r} bits")
