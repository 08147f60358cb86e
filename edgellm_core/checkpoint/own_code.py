"""Modeling code that a checkpoint brings itself (``auto_map`` in config.json): names and digest; nothing runs here."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

MODEL_KEY: Final = "AutoModelForCausalLM"
CONFIG_KEY: Final = "AutoConfig"
"""transformers' names of the entries that a decoder needs."""


def own_classes(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the classes that config.json's ``auto_map`` names, for example ``modeling_x.XForCausalLM``, by their use.

    Empty where there is no causal language model among them.
    """
    named = config.get("auto_map")
    if not isinstance(named, dict) or not isinstance(named.get(MODEL_KEY), str):
        return {}
    return {key: value for key, value in named.items() if isinstance(value, str)}


def code_names(names: Iterable[str]) -> list[str]:
    """Return the Python files at the top of a repository or directory, sorted."""
    return sorted(name for name in names if name.endswith(".py") and "/" not in name)


def code_digest(directory: Path) -> str:
    """Return a sha256 over names and contents of a directory's Python files."""
    digest = hashlib.sha256()
    for name in code_names(path.name for path in directory.iterdir()):
        content = (directory / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
