"""Which column of a table holds the text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgellm_core.calibration.data.errors import MissingColumnError

if TYPE_CHECKING:
    from collections.abc import Mapping

TEXT_COLUMN: Final = "text"
CHAT_COLUMN: Final = "messages"
"""The names that data sets of the hub use for plain text and for conversations."""


def choose_column(source: str, column: str | None, row: Mapping[str, Any], *, chat: bool) -> str:
    """Return the column to read: the one asked for, else ``text`` (``messages`` for a chat), else the only one.

    Args:
        source: the table, for messages.
        column: the column asked for; None to choose.
        row: columns by name.
        chat: conversations are wanted.

    Raises:
        MissingColumnError: it does not exist, or none is obvious.
    """
    if column is not None:
        if column not in row:
            raise MissingColumnError(source, column, row)
        return column
    for name in (CHAT_COLUMN, TEXT_COLUMN) if chat else (TEXT_COLUMN, CHAT_COLUMN):
        if name in row:
            return name
    if len(row) == 1:
        return next(iter(row))
    raise MissingColumnError(source, TEXT_COLUMN, row)
