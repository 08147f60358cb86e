"""Why a text can't be used for calibration, one class per cause."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from edgellm_core.errors import PluginError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


Purpose = Literal["calib", "quality"]
"""What text is for, as the options are named: ``--calib-samples``, ``--quality-samples``."""


class NotEnoughTextError(UserError):
    """The text gives fewer tokens than the samples take."""

    def __init__(self, source: str, *, found: int, samples: int, length: int, purpose: Purpose) -> None:
        """Build ``Calibration needs 512 samples × 512 tokens = 262144; … has 900. …``."""
        whole = found // length
        if found == 0:
            remedy = "It holds no text; give another one with --calib-data."
        elif whole:
            remedy = f"Give --{purpose}-samples {whole}, a shorter --{purpose}-length, or more text."
        else:
            remedy = f"Give a --{purpose}-length of at most {found}, or more text."
        what = "Calibration" if purpose == "calib" else "The measurement"
        super().__init__(
            f"{what} needs {samples} samples × {length} tokens = {samples * length}; {source} has {found}. " + remedy
        )


class MissingTextError(UserError):
    """``--calib-data`` is a path, and nothing is there."""

    def __init__(self, path: Path) -> None:
        """Build ``--calib-data must name a file that exists; there is no …``."""
        super().__init__(f"--calib-data must be a file that exists; there is no {path}. Check the path.")


class UnknownTextFileError(UserError):
    """A file is of no kind that texts are read from."""

    def __init__(self, path: Path, known: Iterable[str]) -> None:
        """Build ``--calib-data must end in .txt, …; got …``."""
        super().__init__(f"--calib-data must end in {', '.join(known)}; got {path}. Convert the file.")


class TextFileError(UserError):
    """A file can't be read as what its name says."""

    def __init__(self, path: Path, problem: str) -> None:
        """Build ``--calib-data … can't be read: line 3 is no JSON (…). …``."""
        super().__init__(f"--calib-data {path} can't be read: {problem.rstrip('.')}. Repair the file, or give another.")


class MissingColumnError(UserError):
    """A table lacks the column that should hold the text."""

    def __init__(self, source: str, column: str, known: Iterable[str]) -> None:
        """Build ``Column 'text' does not exist in …. Columns: a, b. Choose one with --calib-column.``."""
        columns = ", ".join(known) or "none"
        super().__init__(
            f"Column {column!r} does not exist in {source}. Columns: {columns}. Choose one with --calib-column."
        )


class TextTypeError(UserError):
    """A value is no text."""

    def __init__(self, source: str, wanted: str, value: object, *, chat: bool) -> None:
        """Build ``… must hold text; got a value of type int. …``."""
        remedy = "These are conversations: add --calib-chat." if chat else "Choose a column with --calib-column."
        super().__init__(f"{source} must hold {wanted}; got a value of type {type(value).__name__}. {remedy}")


class NoCalibrationTemplateError(UserError):
    """Conversations are asked of a model without a chat template."""

    def __init__(self) -> None:
        """Build ``--calib-chat needs a chat template, and the model has none. …``."""
        super().__init__(
            "--calib-chat needs a chat template, and the model has none (a base model?). Leave --calib-chat out."
        )


class MissingDatasetsError(UserError):
    """A package that reads tables is not installed."""

    def __init__(self, source: str, package: str) -> None:
        """Build ``Reading … needs datasets, which is not installed. …``."""
        super().__init__(
            f"Reading {source} needs {package}, which is not installed. "
            'Run: pip install "edgellm[quantize]", or give --calib-data builtin.'
        )


class HubTextError(UserError):
    """A data set can't be read from the hub."""

    def __init__(self, name: str, problem: str, remedy: str) -> None:
        """Build ``Data set 'owner/name' can't be read: …. …``."""
        super().__init__(f"Data set {name!r} can't be read: {problem}. {remedy}")


class CalibrationTextFailedError(PluginError):
    """The text that a pack brings raised."""

    def __init__(self, name: str, error: BaseException) -> None:
        """Build ``Calibration data 'x' of a plugin failed: ValueError: …``."""
        super().__init__(
            f"Calibration data {name!r} of a plugin failed: {type(error).__name__}: {error}. Give other --calib-data."
        )
