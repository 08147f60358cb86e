"""Writes a pip-installable pack with one family."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import string
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgellm_core.cli.errors import PackExistsError, PackNameError, PackNotWrittenError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

TEMPLATES: Final = Path(__file__).parent / "pack_template"

FILES: Final[Mapping[str, str]] = {
    ".github/workflows/test.yml": "workflow.yml.in",
    ".gitignore": "gitignore.in",
    "LICENSE": "LICENSE.in",
    "README.md": "README.md.in",
    "pyproject.toml": "pyproject.toml.in",
    "src/$package/README.md": "family.md.in",
    "src/$package/__init__.py": "init.py.in",
    "src/$package/chat_template.jinja": "chat_template.jinja.in",
    "src/$package/family.py": "family.py.in",
    "src/$package/matrix.yaml": "matrix.yaml.in",
    "tests/test_conformance.py": "test_conformance.py.in",
    "tests/test_pack.py": "test_pack.py.in",
}
"""File of the pack → its template; both may hold ``$variables``."""

NAME: Final = re.compile(r"[a-z]([a-z0-9]|[._-](?=[a-z0-9]))*", re.IGNORECASE)
"""A distribution name (packaging.python.org, "Names and normalization") that begins with a letter."""

PREFIX: Final = "edgellm-"


@dataclass(frozen=True, kw_only=True, slots=True)
class PackNames:
    """The names that one word gives a pack.

    Attributes:
        distribution: for pip, ``edgellm-acme``.
        package: for Python, ``edgellm_acme``.
        family: family, entry point and ``model_type``, ``acme``.
        cls: prefix of classes, ``Acme``.
    """

    distribution: str
    package: str
    family: str
    cls: str


def pack_names(name: str, families: Collection[str]) -> PackNames:
    """Return the names of a pack.

    Args:
        name: what the user typed; a prefix ``edgellm-`` is not repeated.
        families: names of the families that exist.

    Raises:
        PackNameError: it is no distribution name, or belongs to a family or to a model of transformers.
    """
    if not NAME.fullmatch(name.removeprefix(PREFIX)):
        problem = "must begin with a letter and have only letters, digits, '-', '_' and '.', none of these at its end"
        raise PackNameError(name, problem, "Write it like acme or acme-chat.")
    normal = re.sub(r"[._-]+", "-", name).lower().removeprefix(PREFIX)
    family = normal.replace("-", "_")
    if family in families:
        remedy = f"Name it my-{normal}; its family may claim the same model_type, and a pack wins over the repository."
        raise PackNameError(name, "must not be that of a family that exists", remedy)
    if _is_transformers_model(family):
        remedy = f"Name it my-{normal}, and let its family claim the model_type {family!r}."
        raise PackNameError(name, "must not be that of a model of transformers", remedy)
    return PackNames(
        distribution=PREFIX + normal,
        package=(PREFIX + normal).replace("-", "_"),
        family=family,
        cls="".join(part.capitalize() for part in family.split("_")),
    )


def write_pack(names: PackNames, directory: Path) -> list[Path]:
    """Write a pack, whole or not at all, and return its files.

    Raises:
        PackExistsError: the directory is there already.
        PackNotWrittenError: the operating system refused.
    """
    if directory.exists() or directory.is_symlink():
        raise PackExistsError(directory)
    rendered = render_pack(names)
    partial: Path | None = None
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}-"))
        partial.chmod(0o755)  # mkdtemp makes it private
        for name, text in rendered.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        partial.rename(directory)
    except OSError as error:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        raise PackNotWrittenError(directory, error) from error
    return [directory / name for name in rendered]


def render_pack(names: PackNames) -> dict[str, str]:
    """Return path in the pack → text."""
    from datetime import datetime, timezone

    from edgellm_core.contract import CONTRACT_VERSION

    major, minor = importlib.metadata.version("edgellm").split(".")[:2]
    variables = {
        "distribution": names.distribution,
        "package": names.package,
        "family": names.family,
        "cls": names.cls,
        "year": str(datetime.now(timezone.utc).year),
        "edgellm_range": f">={major}.{minor},<{major}.{int(minor) + 1}",
        "contract": str(CONTRACT_VERSION),
    }
    return {
        string.Template(name).substitute(variables): string.Template(
            (TEMPLATES / template).read_text(encoding="utf-8")
        ).substitute(variables)
        for name, template in FILES.items()
    }


def _is_transformers_model(name: str) -> bool:
    """Say whether transformers has modeling code of that name, without importing it."""
    found = importlib.util.find_spec("transformers")
    places = found.submodule_search_locations if found else None
    return any((Path(place) / "models" / name).is_dir() for place in places or ())
