"""Texts of local files: paragraphs of .txt, a column of .jsonl, .csv and .parquet."""

from __future__ import annotations

import csv
import itertools
from typing import TYPE_CHECKING, Any, Final, TextIO

from edgellm_core.calibration.data.columns import choose_column
from edgellm_core.calibration.data.errors import (
    MissingDatasetsError,
    TextFileError,
    UnknownTextFileError,
)
from edgellm_core.calibration.data.texts import TextSource
from edgellm_core.untrusted import CorruptJsonError, parse_json, require_regular_file
from edgellm_core.untrusted.limits import TEXT_LINE as LINE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

MOST_TEXTS: Final = 100_000
"""Texts of a file that are held in memory to be shuffled; those after them are not used."""

LARGEST_FIELD: Final = 2**31 - 1
"""Characters of a field of a .csv file; Python's own limit of 131 072 is less than a long article."""


def file_source(path: Path, column: str | None, *, chat: bool) -> TextSource:
    """Return the texts of a file.

    Args:
        path: the file, which exists.
        column: column of a table; None for the one that obviously holds the text.
        chat: conversations are wanted, so a column ``messages`` is preferred.

    Raises:
        UnknownTextFileError: the suffix is not known.
        TextFileError: it can't be read as what its suffix says.
        MissingColumnError: the column does not exist, or none is obvious.
        MissingDatasetsError: .parquet, and pyarrow is not installed.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UnknownTextFileError(path, READERS)
    require_regular_file(path)
    try:
        return TextSource(name=str(path), texts=list(itertools.islice(reader(path, column, chat), MOST_TEXTS)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TextFileError(path, str(error)) from error


def _lines(path: Path, file: TextIO) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line; one without an end would fill the memory."""
    for number in itertools.count(1):
        line = file.readline(LINE.most + 1)
        if not line:
            return
        if len(line) > LINE.most:
            raise TextFileError(path, f"line {number} is longer than {LINE.shown()}")
        yield number, line


def _paragraphs(path: Path, column: str | None, chat: bool) -> Iterator[str]:
    del column, chat  # a text file has neither
    lines: list[str] = []
    with path.open(encoding="utf-8-sig") as file:
        for _number, line in _lines(path, file):
            if line.strip():
                lines.append(line.rstrip("\n"))
            elif lines:
                yield "\n".join(lines)
                lines = []
    if lines:
        yield "\n".join(lines)


def _json_lines(path: Path, column: str | None, chat: bool) -> Iterator[Any]:
    chosen = None
    with path.open(encoding="utf-8-sig") as file:
        for number, line in _lines(path, file):
            if not line.strip():
                continue
            row = _json_object(path, number, line)
            if chosen is None or chosen not in row:
                chosen = choose_column(str(path), chosen or column, row, chat=chat)
            yield row[chosen]


def _json_object(path: Path, number: int, line: str) -> Mapping[str, Any]:
    try:
        row = parse_json(line, path)
    except CorruptJsonError as error:
        raise TextFileError(path, f"line {number} is no JSON ({error.problem})") from error
    if not isinstance(row, dict):
        raise TextFileError(path, f"line {number} is no JSON object")
    return row


def _csv_rows(path: Path, column: str | None, chat: bool) -> Iterator[str | None]:
    limit = csv.field_size_limit(LARGEST_FIELD)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            chosen = choose_column(str(path), column, dict.fromkeys(reader.fieldnames or (), ""), chat=chat)
            for row in reader:
                yield row[chosen]
    finally:
        csv.field_size_limit(limit)


def _parquet_rows(path: Path, column: str | None, chat: bool) -> Iterator[Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDatasetsError(str(path), "pyarrow") from error
    try:
        with parquet.ParquetFile(path) as table:
            names = dict.fromkeys(table.schema_arrow.names, "")
            chosen = choose_column(str(path), column, names, chat=chat)
            for batch in table.iter_batches(columns=[chosen]):
                yield from batch.column(0).to_pylist()
    except pa.ArrowException as error:
        raise TextFileError(path, str(error)) from error


READERS: Final[Mapping[str, Callable[[Path, str | None, bool], Iterator[Any]]]] = {
    ".txt": _paragraphs,
    ".jsonl": _json_lines,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
"""Suffix of a file → what yields its texts."""
