"""What can be wrong with what a command is asked to do, one class per cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path


class MissingPytestError(UserError):
    """The conformance kit runs on pytest, which is not installed."""

    def __init__(self) -> None:
        """Build ``edgellm plugins test needs pytest, …``."""
        super().__init__('edgellm plugins test needs pytest, which is not installed. Run: pip install "edgellm[test]".')


class PackNameError(UserError):
    """A pack can't have this name."""

    def __init__(self, name: str, problem: str, remedy: str) -> None:
        """Build ``The name of a pack must …; got 'x'. <remedy>``."""
        super().__init__(f"The name of a pack {problem}; got {name!r}. {remedy}")


class PackExistsError(UserError):
    """The directory of a new pack is there already."""

    def __init__(self, directory: Path) -> None:
        """Build ``'x' exists already. …``."""
        super().__init__(f"'{directory}' exists already, and a new pack replaces nothing. Choose another --directory.")


class PackNotWrittenError(UserError):
    """The files of a new pack can't be written."""

    def __init__(self, directory: Path, error: OSError) -> None:
        """Build ``Can't write the pack 'x': …``."""
        super().__init__(f"Can't write the pack '{directory}': {error.strerror or error}. Choose another --directory.")
