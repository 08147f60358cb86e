"""Listeners for the command line: a live display for people, one JSON object a line for machines."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from edgellm_core.events import Event, Listener


def print_json(event: Event) -> None:
    """Print an event as one line of JSON on standard output; empty fields are left out."""
    fields = {key: value for key, value in asdict(event).items() if value not in ("", None)}
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


class LiveDisplay:
    """Shows the running stage with its elapsed time, and one line for each finished one."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self.console = console
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task: Any = None

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if event.event == "start":
            self._task = self.progress.add_task(event.stage, total=None, detail="")
        elif event.event == "progress" and self._task is not None:
            self.progress.update(self._task, completed=event.completed, total=event.total, detail=event.message)
        elif event.event == "note":
            self.console.print(f"  {event.message}", style="dim", highlight=False, markup=False, soft_wrap=True)
        elif event.event in {"done", "cached", "failed"}:
            self._finish(event)

    def _finish(self, event: Event) -> None:
        from rich.text import Text

        if self._task is not None:
            self.progress.remove_task(self._task)
            self._task = None
        mark, color = {"done": ("✓", "green"), "cached": ("=", "cyan"), "failed": ("✗", "red")}[event.event]
        took = "from cache" if event.event == "cached" else f"{event.seconds:.1f} s, {event.peak_rss_mib:.0f} MiB"
        self.console.print(Text.assemble((mark, color), f" {event.stage:<11}{took}"))


@contextmanager
def listening(*, as_json: bool) -> Iterator[Listener]:
    """Yield the listener of a command: JSON lines, or a live display on standard error."""
    if as_json:
        yield print_json
        return
    from rich.console import Console

    display = LiveDisplay(Console(stderr=True))
    with display.progress:
        yield display
