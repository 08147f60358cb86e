"""Ctrl-C and SIGTERM end a command in one sentence, and what is finished stays."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.errors import STAGE, Stopped

if TYPE_CHECKING:
    from collections.abc import Iterable

HANDLED: Final = (signal.SIGINT, signal.SIGTERM)

SHELL_CODE: Final = 128
"""A shell adds the signal's number to this for the exit code of what it ended: 130 for Ctrl-C, 143 for SIGTERM."""

RESUMED: Final = ("build", "export", "quantize")
"""Commands that go on where an earlier run with the same output ended."""


def stop_on_signals(signals: Iterable[signal.Signals] = HANDLED) -> None:
    """Let signals raise :class:`Stopped` in the main thread; the same signal a second time ends the process at once."""

    def stop(number: int, _frame: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Stopped(number)

    for number in signals:
        signal.signal(number, stop)


def sentence_of_stop(stop: Stopped, command: str) -> str:
    """Return what a user who stopped a command is told.

    Args:
        stop: what ended it.
        command: as it was typed, for example ``edgellm build``.
    """
    stage, name = vars(stop).get(STAGE), command.rpartition(" ")[2]
    where = f"Stopped in stage {stage}" if stage else "Stopped"
    if stage and name in RESUMED:
        return f"{where}; the next {name} with the same output goes on from there."
    return f"{where}."
