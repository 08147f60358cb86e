"""Plugins written to disk the way a user drops them in: single files with a family or other hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

HEADER = """\
from edgellm_core.contract import CalibrationData, ModelFamily, QuantizationScheme, Target
from edgellm_core.hookspecs import hookimpl
"""

FAMILY = """
class Family(ModelFamily):
    name = {name!r}
    model_types = {model_types!r}
    architectures = {architectures!r}

@hookimpl
def edgellm_register_families():
    return [Family]
"""


def family_source(name: str, model_types: Iterable[str] = (), architectures: Iterable[str] = ()) -> str:
    """Return the source of a plugin that registers a plain family with these claims."""
    return FAMILY.format(name=name, model_types=tuple(model_types), architectures=tuple(architectures))


def write_plugin(folder: Path, name: str, source: str) -> Path:
    """Write ``folder/name.py``; contract classes and ``hookimpl`` are imported ahead of ``source``.

    Returns:
        The file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(HEADER + source, encoding="utf-8")
    return path


def write_family(
    folder: Path, plugin: str, name: str, model_types: Iterable[str] = (), architectures: Iterable[str] = ()
) -> Path:
    """Write a plugin file that registers a plain family with these claims."""
    return write_plugin(folder, plugin, family_source(name, model_types, architectures))
