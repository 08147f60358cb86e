"""Why a test matrix can't be read, selected or run, one class per cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.errors import EdgellmError, UserError
from edgellm_core.yaml_files import YamlFileError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SHOWN = 5
"""Most entries that one message names."""


class MatrixSyntaxError(UserError):
    """A text is no entry of the test matrix."""

    def __init__(self, text: str, problem: str) -> None:
        """Build ``Entry 'tiny-fp16-mxls64': …``.

        Args:
            text: the entry as it was written.
            problem: what is wrong with it and what to write, as sentences.
        """
        super().__init__(f"Entry {text!r}: {problem}")


class MatrixFileError(YamlFileError):
    """A matrix.yaml can't be read, or an entry in it is wrong."""


class NoEntriesError(UserError):
    """A selection of the test matrix is empty."""

    def __init__(self, *, tier: str | None, family: str | None, entry: str | None) -> None:
        """Name tier, family and entry, where they were given."""
        asked = {"--tier": tier, "--family": family, "--entry": entry}
        given = " ".join(f"{option} {value}" for option, value in asked.items() if value)
        super().__init__(
            f"No entry of the test matrix is selected ({given or 'no family has any'}). 'edgellm matrix list' shows "
            "all entries; a family's are in the matrix.yaml of its folder."
        )


class OwnerlessEntryError(UserError):
    """An entry of a tiny checkpoint is in no matrix.yaml, so nothing says whose checkpoint is meant."""

    def __init__(self, entry: str) -> None:
        """Name the entry."""
        super().__init__(f"Entry {entry!r} is in no matrix.yaml. Add --family NAME to say whose tiny checkpoint it is.")


class MissingDistributedError(UserError):
    """The package that spreads entries over machines is not installed."""

    def __init__(self, scheduler: str) -> None:
        """Build ``--scheduler tcp://… needs the package distributed …``."""
        super().__init__(
            f"--scheduler {scheduler} needs the package distributed, and it is not installed. "
            'Run: pip install "edgellm[distributed]", or use --jobs N.'
        )


class UnreachableSchedulerError(UserError):
    """Nothing that speaks Dask answers at the address of the scheduler."""

    def __init__(self, scheduler: str, reason: str) -> None:
        """Name the address and why connecting failed."""
        super().__init__(
            f"--scheduler {scheduler} must be the address of a running Dask scheduler; connecting failed ({reason}). "
            "Start one with 'dask scheduler', and workers with 'dask worker'."
        )


class NoWorkersError(UserError):
    """A scheduler has no workers, so entries would wait for ever."""

    def __init__(self, scheduler: str) -> None:
        """Name the address."""
        super().__init__(f"--scheduler {scheduler} has no workers. Start some with 'dask worker {scheduler}'.")


class JunitFileError(UserError):
    """The JUnit file can't be written."""

    def __init__(self, path: Path, reason: str) -> None:
        """Name the file and why."""
        super().__init__(f"Can't write --junit {str(path)!r}: {reason}. Choose another file.")


class EntriesFailedError(EdgellmError):
    """Entries of the test matrix failed."""

    def __init__(self, failed: Sequence[str], total: int) -> None:
        """Count and name the entries that failed.

        Args:
            failed: ``FAMILY ENTRY`` of each.
            total: entries in all.
        """
        shown = ", ".join(failed[:SHOWN]) + (", …" if len(failed) > SHOWN else "")
        super().__init__(f"{len(failed)} of {total} entries failed: {shown}.")


class NothingRanError(EdgellmError):
    """Every entry was skipped, so nothing was tested."""

    def __init__(self, skipped: Sequence[str]) -> None:
        """Name the entries.

        Args:
            skipped: ``FAMILY ENTRY`` of each.
        """
        shown = ", ".join(skipped[:SHOWN]) + (", …" if len(skipped) > SHOWN else "")
        super().__init__(f"Nothing was tested: every entry was skipped ({shown}).")
