"""Writes a family's folder into this repository."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgellm_core.cli.errors import FamilyNameError, FamilyNotWrittenError, NoRepositoryError
from edgellm_core.cli.new_pack import FAMILY_FILES, PackNames, class_prefix, is_transformers_model, render

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

NAME: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
"""A module name as those of transformers' models."""

PACKAGE: Final = re.compile(r'^    "(edgellm_plugins\.\w+)",$', re.MULTILINE)
"""A family's line in the list ``packages`` of pyproject.toml."""


def in_tree_names(name: str, families: Collection[str], *, described: bool) -> PackNames:
    """Return the names of a family of the repository.

    Args:
        name: what the user typed.
        families: names of the families that exist.
        described: whether a config.json says what the family is.

    Raises:
        FamilyNameError: it is no module name, a family has it, or it means a model that only its config describes.
    """
    if not NAME.fullmatch(name):
        raise FamilyNameError(name, "must be lower-case words joined by '_'", "Take the model_type, such as qwen3_moe.")
    if name in families:
        raise FamilyNameError(name, "must not be that of a family that exists", f"Change plugins/{name} instead.")
    if not described and is_transformers_model(name):
        remedy = "Give the config.json of a checkpoint with --from-config FILE."
        raise FamilyNameError(name, "must not be that of a model of transformers that nothing describes", remedy)
    return PackNames(distribution="edgellm", package=f"edgellm_plugins.{name}", family=name, cls=class_prefix(name))


def find_repository(start: Path) -> Path:
    """Return the nearest folder above ``start`` that is a clone of edgellm.

    Raises:
        NoRepositoryError: there is none.
    """
    for folder in (start, *start.parents):
        if (folder / "plugins" / "__init__.py").is_file() and (folder / "pyproject.toml").is_file():
            text = (folder / "pyproject.toml").read_text(encoding="utf-8")
            if PACKAGE.search(text):
                return folder
    raise NoRepositoryError(start)


def write_in_tree(name: str, variables: Mapping[str, str], repository: Path) -> list[Path]:
    """Write a family's folder and list its package in pyproject.toml, both or neither; return the files.

    Args:
        name: of the folder.
        variables: of the templates.
        repository: the clone.

    Raises:
        FamilyNameError: a folder of that name is there already.
        FamilyNotWrittenError: the operating system refused.
    """
    folder = repository / "plugins" / name
    if folder.exists() or folder.is_symlink():
        raise FamilyNameError(name, "must not be that of a folder that exists", f"Remove plugins/{name} first.")
    rendered = render(FAMILY_FILES, variables)
    pyproject = repository / "pyproject.toml"
    partial: Path | None = None
    try:
        partial = Path(tempfile.mkdtemp(dir=repository, prefix=f".{name}-"))
        partial.chmod(0o755)  # mkdtemp makes it private
        for file, text in rendered.items():
            (partial / file).write_text(text, encoding="utf-8")
        partial.rename(folder)
        _replace(pyproject, with_package(pyproject.read_text(encoding="utf-8"), f"edgellm_plugins.{name}"))
    except OSError as error:
        for left in (partial, folder):
            if left is not None:
                shutil.rmtree(left, ignore_errors=True)
        raise FamilyNotWrittenError(folder, error) from error
    return [*(folder / file for file in rendered), pyproject]


def with_package(pyproject: str, package: str) -> str:
    """Return the text of pyproject.toml with one more package, in alphabetical order; unchanged where it is listed."""
    listed = list(PACKAGE.finditer(pyproject))
    if any(found[1] == package for found in listed):
        return pyproject
    before = [found for found in listed if found[1] < package]
    place = before[-1].end() + 1 if before else listed[0].start()
    return f'{pyproject[:place]}    "{package}",\n{pyproject[place:]}'


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.chmod(path.stat().st_mode)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
