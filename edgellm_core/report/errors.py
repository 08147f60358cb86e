"""Why a comparison can't be made, or is not whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.errors import EdgellmError, UserError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class MissingMatplotlibError(UserError):
    """The package that draws the plots is not installed."""

    def __init__(self) -> None:
        """Build ``edgellm compare needs matplotlib, which is not installed. …``."""
        super().__init__(
            'edgellm compare needs matplotlib, which is not installed. Run: pip install "edgellm[report]".'
        )


class ComparisonIncompleteError(EdgellmError):
    """Some precisions could not be built or run."""

    def __init__(self, failed: Mapping[str, str], page: Path) -> None:
        """Build ``2 precision(s) failed. fp8: …; int4_awq: …. The others are in …``."""
        reasons = " ".join(f"{precision}: {reason}" for precision, reason in failed.items())
        super().__init__(f"{len(failed)} precision(s) could not be compared; the report is in {page}. {reasons}")
