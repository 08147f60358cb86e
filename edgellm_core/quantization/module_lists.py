"""Lists of modules in quantization settings: how each tool reads an entry, and entries that the tensors contradict."""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING, Any

from edgellm_core.quantization.errors import ContradictoryQuantizationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    Matcher = Callable[[str, str], bool]
    """``(entry, path of a module)`` → whether the entry means the module."""


def by_boundary(entry: str, module: str) -> bool:
    """Match whole components of a path, or as transformers does: an expression up to a dot, or the end of the path.

    AutoAWQ itself takes any substring (``gate`` then means ``gate_proj`` too), which its own checkpoints contradict.
    Source: transformers 5, ``quantizers/quantizers_utils.py``, ``should_convert_module``.
    """
    if f".{entry}." in f".{module}.":
        return True
    return module.endswith(entry) or re.match(rf"(?:{entry})(?:(?<=\.)|(?=\.|$))", module) is not None


def by_name(entry: str, module: str) -> bool:
    """Match as compressed-tensors does: the whole path, or an expression after ``re:``.

    Source: compressed-tensors 0.12, ``utils/match.py``, ``match_name``.
    """
    return re.match(entry[3:], module) is not None if entry.startswith("re:") else entry == module


def by_wildcard(entry: str, module: str) -> bool:
    """Match as ModelOpt's ``exclude_modules`` are meant: shell wildcards."""
    return fnmatch.fnmatchcase(module, entry)


def require_unlisted(directory: Path, key: str, entries: Any, modules: Iterable[str], matches: Matcher) -> None:
    """Refuse a quantized layer that a list leaves unquantized.

    Args:
        directory: the checkpoint.
        key: name of the list.
        entries: its value; None for no list.
        modules: paths of the quantized layers.
        matches: how the tool reads an entry.

    Raises:
        ContradictoryQuantizationError: naming entry and layer, or what is no list of names.
    """
    if entries is None:
        return
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise ContradictoryQuantizationError(directory, f"{key!r} must be a list of names and is {entries!r}")
    for entry in entries:
        for module in modules:
            if _matched(directory, key, entry, module, matches):
                problem = f"{key} leaves {module!r} unquantized (by {entry!r}), and it holds a quantized weight"
                raise ContradictoryQuantizationError(directory, problem)


def _matched(directory: Path, key: str, entry: str, module: str, matches: Matcher) -> bool:
    try:
        return matches(entry, module)
    except re.error as error:
        problem = f"{key} has {entry!r}, which is no regular expression ({error})"
        raise ContradictoryQuantizationError(directory, problem) from error
