"""Reads ``matrix.yaml``; errors name file and line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf, ValidationError
from pydantic_core import PydanticCustomError

from edgellm_core.matrix.entry import MatrixEntry, parse
from edgellm_core.matrix.errors import MatrixFileError, MatrixSyntaxError

if TYPE_CHECKING:
    from collections.abc import Sequence
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


def _entry(value: object) -> MatrixEntry:
    if not isinstance(value, str):
        kind, message = "entry", "must be a text like tiny-fp16-mxsl64"
        raise PydanticCustomError(kind, message)
    try:
        return parse(value)
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


def read_matrix(path: Path) -> tuple[MatrixItem, ...]:
    """Read a family's matrix: tiers with lists of entries, or of mappings with ``entry`` and ``xfail``.

    Raises:
        MatrixFileError: it can't be read, an entry in it is wrong, or is there twice in a tier.
    """
    root, data = _read_yaml(path)
    try:
        written = _File.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"]]
        message = str(first["msg"]).rstrip(".")
        ending = "" if message.endswith("?") else "."
        where = " → ".join(part if not part.isdecimal() else str(int(part) + 1) for part in place)
        raise MatrixFileError(path, _line(root, first["loc"]), f"{where}: {message}{ending}") from error
    items = tuple(
        MatrixItem(tier=tier, entry=item.entry, xfail=item.xfail, line=_line(root, (tier, index)))
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


def _read_yaml(path: Path) -> tuple[yaml.Node, Any]:
    """Return the root node, which knows its lines, and the data; all scalars are strings."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MatrixFileError(path, None, f"can't be read: {error}.") from error
    try:
        loader = yaml.BaseLoader(text)
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise MatrixFileError(path, 1, f"must be a mapping from the tiers {' and '.join(TIERS)} to entries.")
        keys = [key for key, _value in root.value if isinstance(key, yaml.ScalarNode)]
        for index, key in enumerate(keys):  # YAML itself lets the last one win
            if key.value in {earlier.value for earlier in keys[:index]}:
                problem = f"{key.value!r} is there twice. Put their entries together."
                raise MatrixFileError(path, int(key.start_mark.line) + 1, problem)
        return root, loader.construct_document(root)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise MatrixFileError(path, line, f"is not valid YAML: {error.reason}.") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise MatrixFileError(path, mark.line + 1 if mark else 1, f"is not valid YAML: {error.problem}.") from error


def _line(root: yaml.Node, location: Sequence[Any]) -> int:
    """Return the line of the node that a location leads to, or of the last one on the way that exists."""
    node, line = root, int(root.start_mark.line)
    for part in location:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = int(node.start_mark.line)
            continue
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = next(((key, value) for key, value in pairs if key.value == part), None)
        if found is None:
            break
        line, node = int(found[0].start_mark.line), found[1]
    return line + 1
