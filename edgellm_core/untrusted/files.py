"""Opens files from outside: only regular ones (a FIFO would wait for ever), and only up to a limit."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

from edgellm_core.untrusted.errors import CorruptJsonError, FileLimitError, NotAFileError, UnreadableFileError

if TYPE_CHECKING:
    from pathlib import Path

    from edgellm_core.untrusted.limits import Limit

KINDS: Final = (
    (stat.S_ISFIFO, "FIFO"), (stat.S_ISSOCK, "socket"), (stat.S_ISCHR, "device"), (stat.S_ISBLK, "device"),
)  # fmt: skip
"""What is neither a regular file nor a directory → how errors call it."""


def require_regular_file(path: Path) -> int:
    """Return the size of a file in bytes, without opening it.

    Raises:
        NotAFileError: it is a FIFO, a socket or a device.
        UnreadableFileError: it is not there, a directory, or can't be looked at.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(21, "Is a directory")
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise UnreadableFileError(path, error) from error
    for is_kind, name in KINDS:
        if is_kind(status.st_mode):
            raise NotAFileError(path, name)
    return status.st_size


def read_bytes(path: Path, limit: Limit) -> bytes:
    """Return the content of a regular file.

    Args:
        path: the file.
        limit: its largest size in bytes.

    Raises:
        NotAFileError: it is a FIFO, a socket or a device.
        FileLimitError: it is larger.
        UnreadableFileError: it can't be read.
    """
    size = require_regular_file(path)
    if size <= limit.most:
        try:
            with path.open("rb") as stream:
                content = stream.read(limit.most + 1)  # files of /proc say that they are empty
        except OSError as error:
            raise UnreadableFileError(path, error) from error
        size = len(content)
    if size > limit.most:
        raise FileLimitError(path, limit.what, limit.shown(), limit.shown(size))
    return content


def read_text(path: Path, limit: Limit) -> str:
    """Return the content of a regular UTF-8 file, as ``read_bytes``.

    Raises:
        CorruptJsonError: it is not UTF-8.
        UserError: as ``read_bytes``.
    """
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptJsonError(path, f"byte {error.start} is not UTF-8") from error
