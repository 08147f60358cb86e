"""What a running stage reports, and the measuring of its time and memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgellm_core.errors import STAGE, sentence_of

EventName = Literal["start", "progress", "note", "done", "cached", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One thing that happened in a stage.

    Attributes:
        stage: name of the stage, for example ``trace``.
        event: what happened.
        seconds: wall-clock seconds since the stage began.
        peak_rss_mib: highest resident set size of the process since the stage began, in MiB.
        message: a sentence for people; may be empty.
        completed: units done so far, where the stage can count them.
        total: units in all, where known.
    """

    stage: str
    event: EventName
    seconds: float
    peak_rss_mib: float
    message: str = ""
    completed: int | None = None
    total: int | None = None


Listener = Callable[[Event], None]


def ignore_events(_event: Event) -> None:
    """Listener that drops every event."""


class Reporter:
    """Handed to a running stage; turns its calls into events with time and memory filled in."""

    def __init__(self, stage: str, listener: Listener = ignore_events) -> None:
        self.stage = stage
        self._listener = listener
        self._started = time.perf_counter()
        reset_peak_rss()

    @property
    def seconds(self) -> float:
        """Wall-clock seconds since the stage began."""
        return time.perf_counter() - self._started

    def emit(
        self, event: EventName, message: str = "", *, completed: int | None = None, total: int | None = None
    ) -> None:
        """Send one event to the listener."""
        self._listener(
            Event(
                stage=self.stage,
                event=event,
                seconds=round(self.seconds, 3),
                peak_rss_mib=round(peak_rss_mib(), 1),
                message=message,
                completed=completed,
                total=total,
            )
        )

    def progress(self, completed: int, total: int | None = None, message: str = "") -> None:
        """Report that ``completed`` of ``total`` units are done."""
        self.emit("progress", message, completed=completed, total=total)

    def note(self, message: str) -> None:
        """Report a sentence that the user should see."""
        self.emit("note", message)


@contextmanager
def stage_events(stage: str, listener: Listener = ignore_events) -> Iterator[Reporter]:
    """Emit ``start``, then ``done`` or ``failed``, around the body."""
    reporter = Reporter(stage, listener)
    try:
        reporter.emit("start")
        yield reporter
    except BaseException as error:
        vars(error).setdefault(STAGE, stage)
        reporter.emit("failed", sentence_of(error))
        raise
    reporter.emit("done")


def reset_peak_rss() -> None:
    """Make the kernel forget the process's peak resident set size, where it allows that.

    Source: Linux ``proc(5)``, ``/proc/pid/clear_refs`` with value 5.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or a sandbox: the peak then is that of the whole process
        return


def peak_rss_mib() -> float:
    """Return the peak resident set size in MiB since the last reset (of the process where that can't be read)."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**20
