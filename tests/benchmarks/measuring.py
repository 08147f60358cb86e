"""Wall time and peak memory of commands, each in a process of its own."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one command took: wall-clock seconds, CPU seconds and peak resident set size in MB (10^6 bytes)."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def measure(command: Sequence[str | Path], environ: Mapping[str, str] | None = None) -> Run:
    """Run a command and measure it and its children that were waited for.

    Raises:
        SystemExit: the command failed; its output is printed.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(environ or {})},
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _pid, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{output.decode(errors='replace')}")
    return Run(seconds=seconds, cpu_seconds=usage.ru_utime + usage.ru_stime, peak_mb=usage.ru_maxrss * 1024 / 1e6)


def drop_from_page_cache(directory: Path) -> None:
    """Ask the kernel to forget the cached pages of all files in a directory, so that the next read is cold."""
    for path in directory.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def median_run(runs: Sequence[Run]) -> Run:
    """Return the median of each figure."""
    fields = ("seconds", "cpu_seconds", "peak_mb")
    return Run(**{field: statistics.median(getattr(run, field) for run in runs) for field in fields})


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *rows)]
