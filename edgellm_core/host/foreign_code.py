"""Runs the code of plugins so that whatever it does is its own failure, with its name."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE: Final = 5.0
"""Seconds after which an import that has not ended is named on standard error."""


@contextlib.contextmanager
def confined() -> Iterator[None]:
    """Keep what a plugin prints off standard output, which may be JSON, and turn ``os._exit`` into SystemExit."""
    kept = os._exit
    os._exit = _raise_exit
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os._exit = kept


@contextlib.contextmanager
def named_if_slow(plugin: str) -> Iterator[None]:
    """Name a plugin on standard error whose import takes longer than ``PATIENCE``."""
    message = (
        f"Plugin {plugin!r} has been importing for {PATIENCE:g} s. If it does not end, stop with Ctrl-C and leave it "
        "out with EDGELLM_PLUGINS.\n"
    )
    timer = threading.Timer(PATIENCE, lambda: sys.stderr.write(message))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _raise_exit(status: Any = 0) -> NoReturn:
    raise SystemExit(status)
