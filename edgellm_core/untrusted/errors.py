"""What can be wrong with a file from outside, before anything is known about its content."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path


class CorruptJsonError(UserError):
    """A JSON file does not parse, or holds something else than an object."""

    def __init__(self, path: object, problem: str, line: int | None = None, column: int | None = None) -> None:
        """Build ``<path>, line 3, column 7: <problem>. …``."""
        self.problem = problem
        place = f", line {line}, column {column}" if line is not None else ""
        super().__init__(f"'{path}'{place}: {problem}. Copy or download the file again.")


class UnreadableFileError(UserError):
    """The operating system refused to read a file or directory."""

    def __init__(self, path: object, error: OSError | ValueError) -> None:
        """Build the sentence from the path and the system's reason."""
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        self.problem = str(reason)
        super().__init__(f"Can't read '{path}': {reason}. Check the path and its permissions.")


class NotAFileError(UserError):
    """Something else than a regular file lies where one is read: a FIFO, a socket or a device."""

    def __init__(self, path: Path, kind: str) -> None:
        """Build the sentence from the path and what lies there."""
        self.problem = f"it is a {kind}"
        super().__init__(f"'{path}' must be a regular file; it is a {kind}. Remove it, or put the file itself there.")


class FileLimitError(UserError):
    """A file is larger than any real one of its kind."""

    def __init__(self, path: object, what: str, limit: str, found: str) -> None:
        """Build the sentence from the file, what is limited, the limit and what was found."""
        self.problem = f"{what} may have at most {limit}; it has {found}"
        super().__init__(f"'{path}' is not read: {self.problem}. Copy or download the right file.")
