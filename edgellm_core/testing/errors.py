"""What can be wrong with what the conformance kit is asked to check, one class per cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.errors import PluginError, UserError

if TYPE_CHECKING:
    from pathlib import Path


class NoFamilyError(UserError):
    """There is no family to check."""

    def __init__(self) -> None:
        """Build ``No plugin brings a family to check. …``."""
        super().__init__(
            "No plugin brings a family to check. Give its folder with --plugin-path, or look at: edgellm plugins list."
        )


class BrokenPluginError(PluginError):
    """The plugin to check can't be used."""

    def __init__(self, name: str, error: str) -> None:
        """Build ``Plugin 'x' can't be checked, because it was skipped: …``."""
        super().__init__(f"Plugin {name!r} can't be checked, because it was skipped: {error}")


class WeightsDirectoryError(UserError):
    """``--weights`` is malformed, or its directory is not there."""

    def __init__(self, entry: str) -> None:
        """Build ``--weights must be MODEL=DIR …``."""
        super().__init__(f"--weights must be MODEL=DIR with a directory that exists; got {entry!r}.")


class KnownFailuresError(PluginError):
    """``known_failures`` in a ``matrix.yaml`` is malformed."""

    def __init__(self, family: str, problem: str) -> None:
        """Build ``Family 'x': known_failures of matrix.yaml …``."""
        super().__init__(f"Family {family!r}: known_failures of matrix.yaml {problem}")


class RecordFileError(UserError):
    """A conformance record can't be read."""

    def __init__(self, path: Path, problem: str) -> None:
        """Build ``Conformance record 'x.json' …``."""
        super().__init__(f"Conformance record '{path}' {problem}. Write it anew: edgellm plugins test NAME --level 4.")
