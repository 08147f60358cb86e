"""The broken pack: it needs a library that nobody installed."""

from __future__ import annotations

import library_that_nobody_installed  # noqa: F401
