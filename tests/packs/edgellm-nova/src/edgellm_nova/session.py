"""Runs graphs of the nova runtime."""

from __future__ import annotations

import sys
from typing import Any

from edgellm_core.runtime.session import DecoderSession


class NovaSession(DecoderSession):
    """The core's session, which says on standard error that it is the pack's."""

    def initial_states(self, batch: int) -> dict[str, Any]:
        """Return the empty cache."""
        sys.stderr.write("a session of nova-rt begins\n")
        return super().initial_states(batch)
