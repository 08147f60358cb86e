"""Reads ``matrix.yaml``; errors name file and line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf, ValidationError, ValidationInfo
from pydantic_core import PydanticCustomError

from edgellm_core.matrix.entry import MatrixEntry, parse
from edgellm_core.matrix.errors import MatrixFileError, MatrixSyntaxError
from edgellm_core.yaml_files import read_yaml

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

MATRIX_FILE: Final = "matrix.yaml"

TIERS: Final = ("l0", "l1")
"""``l0``: continuous integration, CPU, tiny checkpoints. ``l1``: real checkpoints or a GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixItem:
    """One entry of a file.

    Attributes:
        tier: ``l0`` or ``l1``.
        entry: the entry.
        xfail: why it is expected to fail; None where it is expected to pass.
        line: its line in the file, from 1.
    """

    tier: str
    entry: MatrixEntry
    xfail: str | None
    line: int


def _entry(value: object, info: ValidationInfo) -> MatrixEntry:
    if not isinstance(value, str):
        kind, message = "entry", "must be a text like tiny-fp16-mxsl64"
        raise PydanticCustomError(kind, message)
    try:
        return parse(value, info.context or ())
    except MatrixSyntaxError as error:
        raise PydanticCustomError("entry", "{problem}", {"problem": str(error)}) from error


def _written(value: object) -> object:
    """Return an item as a mapping; most are only the entry's text."""
    return {"entry": value} if isinstance(value, str) else value


class _Written(BaseModel):
    """An item as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    entry: Annotated[InstanceOf[MatrixEntry], BeforeValidator(_entry)]
    xfail: str | None = Field(default=None, min_length=1)


_Sentence = Annotated[str, Field(min_length=1)]


class _File(BaseModel):
    """A file as it is written; ``known_failures`` (check → reason) is for the conformance kit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    l0: tuple[Annotated[_Written, BeforeValidator(_written)], ...] = ()
    l1: tuple[Annotated[_Written, BeforeValidator(_written)], ...] = ()
    known_failures: dict[_Sentence, _Sentence] = Field(default_factory=dict)


def read_matrix(path: Path, schemes: Collection[str] = ()) -> tuple[MatrixItem, ...]:
    """Read a family's matrix: tiers with lists of entries, or of mappings with ``entry`` and ``xfail``.

    Args:
        path: the file.
        schemes: names of plugins' schemes, which entries may name.

    Raises:
        MatrixFileError: it can't be read, an entry in it is wrong, or is there twice in a tier.
    """
    expected = f"a mapping from the tiers {' and '.join(TIERS)} to entries"
    read = read_yaml(path, path, expected=expected, error=MatrixFileError)
    try:
        written = _File.model_validate(read.data, context=frozenset(schemes))
    except ValidationError as error:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"]]
        message = str(first["msg"]).rstrip(".")
        ending = "" if message.endswith("?") else "."
        where = " → ".join(part if not part.isdecimal() else str(int(part) + 1) for part in place)
        raise MatrixFileError(path, read.line(first["loc"]), f"{where}: {message}{ending}") from error
    items = tuple(
        MatrixItem(tier=tier, entry=item.entry, xfail=item.xfail, line=read.line((tier, index)))
        for tier in TIERS
        for index, item in enumerate(getattr(written, tier))
    )
    seen: dict[tuple[str, str], MatrixItem] = {}
    for item in items:
        earlier = seen.setdefault((item.tier, str(item.entry)), item)
        if earlier is not item:
            problem = f"{str(item.entry)!r} is in {item.tier} already, in line {earlier.line}. Remove one of the two."
            raise MatrixFileError(path, item.line, problem)
    return items
