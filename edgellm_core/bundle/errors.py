"""Why a bundle can't be written or loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.errors import UserError, shown

if TYPE_CHECKING:
    from pathlib import Path


class NotABundleError(UserError):
    """A path does not hold a bundle."""

    def __init__(self, path: Path, reason: str) -> None:
        """Name the path and what was found there."""
        super().__init__(
            f"{str(path)!r} is not an edgellm bundle: {reason}. Build one with 'edgellm build SOURCE -o DIR'."
        )


class InvalidManifestError(UserError):
    """bundle.json is not what edgellm writes."""

    def __init__(self, path: Path, where: str, problem: str) -> None:
        """Name the file, the place in it, and what is wrong there."""
        place = f" at {where!r}" if where else ""
        super().__init__(f"{str(path)!r} is invalid{place}: {problem}. Build the bundle again.")


class UnknownSchemaError(UserError):
    """bundle.json was written by another version of edgellm."""

    def __init__(self, path: Path, found: object, known: int) -> None:
        """Name the file and both schema versions."""
        super().__init__(
            f"{str(path)!r} has schema_version {shown(found)}; this edgellm reads {known}. "
            "Use the edgellm that wrote it, or build the bundle again."
        )


class DamagedBundleError(UserError):
    """A file of a bundle is not the one that was published."""

    def __init__(self, directory: Path, file: str, expected: str, found: str) -> None:
        """Name the file, what the manifest says about it and what is there."""
        super().__init__(
            f"{file!r} of the bundle {str(directory)!r} was changed or damaged: bundle.json says {expected}, "
            f"found {found}. Copy or build the bundle again."
        )


class ForeignOutputError(UserError):
    """The output path holds something that edgellm did not write."""

    def __init__(self, out: Path, reason: str) -> None:
        """Name the path and why it is not ours."""
        super().__init__(
            f"{str(out)!r} exists and is not an edgellm bundle ({reason}), so it is left alone. "
            "Choose another output directory with -o, or remove it yourself."
        )


class BundleExistsError(UserError):
    """The output path holds a bundle already."""

    def __init__(self, out: Path) -> None:
        """Name the path."""
        super().__init__(f"{str(out)!r} holds a bundle already. Replace it with --force, or choose another -o.")


class OutputNotWritableError(UserError):
    """The system refuses to write the output directory."""

    resumable = True

    def __init__(self, out: Path, error: OSError) -> None:
        """Name the path and the system's reason."""
        super().__init__(
            f"Can't write the bundle to {str(out)!r}: {error.strerror or error}. "
            "Choose another output directory with -o, or make this one writable."
        )
