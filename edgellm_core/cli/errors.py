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


class FamilyNameError(UserError):
    """A family of this repository can't have this name."""

    def __init__(self, name: str, problem: str, remedy: str) -> None:
        """Build ``The name of a family must …; got 'x'. <remedy>``."""
        super().__init__(f"The name of a family {problem}; got {name!r}. {remedy}")


class FamilyNotWrittenError(UserError):
    """The folder of a new family can't be written."""

    def __init__(self, folder: Path, error: OSError) -> None:
        """Build ``Can't write the family 'x': …``."""
        super().__init__(
            f"Can't write the family {str(folder)!r}: {error.strerror or error}. Make plugins and pyproject.toml "
            "writable; nothing was changed."
        )


class NoRepositoryError(UserError):
    """A family's folder goes into a clone of edgellm, and there is none here."""

    def __init__(self, start: Path) -> None:
        """Name the folder that was searched upwards from."""
        super().__init__(
            f"--in-tree needs a clone of edgellm, with plugins and pyproject.toml; {str(start)!r} lies in none. Run it "
            "in one, or write a pack without --in-tree."
        )


class ConfigWithoutFamilyError(UserError):
    """A config.json does not say what a family is."""

    def __init__(self, file: Path, problem: str, remedy: str) -> None:
        """Build ``'x' <problem>. <remedy>``."""
        super().__init__(f"{str(file)!r} {problem}. {remedy}")


class ClaimedFamilyError(UserError):
    """A family claims already what a config.json says."""

    def __init__(self, file: Path, family: str, reason: str) -> None:
        """Name the file, the family and why it was selected."""
        super().__init__(
            f"{str(file)!r} belongs to family {family!r} already: {reason}. Build it as it is, or change that family."
        )
