"""The marker of the conformance kit's checks."""

from __future__ import annotations

from typing import Final

CHECK: Final = "edgellm_check"
"""Name of the marker; it carries ``level`` and ``per``."""
