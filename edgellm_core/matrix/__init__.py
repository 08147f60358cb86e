"""The test matrix: entries, the files that hold them, and running them as real builds."""

from __future__ import annotations

from edgellm_core.matrix.entry import EagleDraft, MatrixEntry, parse
from edgellm_core.matrix.errors import MatrixFileError, MatrixSyntaxError
from edgellm_core.matrix.files import TIERS, MatrixItem, read_matrix

__all__ = [
    "TIERS",
    "EagleDraft",
    "MatrixEntry",
    "MatrixFileError",
    "MatrixItem",
    "MatrixSyntaxError",
    "parse",
    "read_matrix",
]  # fmt: skip
