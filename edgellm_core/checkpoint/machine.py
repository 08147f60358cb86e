"""How much memory and disk this machine has left."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

CGROUPS: Final = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Control groups of version 2 and 1: folder, limit, usage, and the page cache in ``memory.stat`` (``cgroups(7)``)."""


def available_memory() -> int:
    """Return the bytes of memory that can be taken without swapping, within the limit of the control group."""
    import psutil

    free = int(psutil.virtual_memory().available)
    groups = [cgroup_memory(*group) for group in CGROUPS]
    return min(free, *(left for left in groups if left is not None), free)


def cgroup_memory(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    """Return the bytes that a control group may still take; None where it has no limit or is not there.

    Usage counts file pages that the kernel gives back first; they are free here, as in Kubernetes' working set.
    """
    try:
        allowed, used = (int((folder / name).read_text()) for name in (limit, usage))
        statistics = dict(line.split(maxsplit=1) for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, allowed - used + int(statistics.get(cache, 0)))
    except (OSError, ValueError):  # not this version of control groups, or "max": no limit
        return None


def free_disk(path: Path) -> int:
    """Return the free bytes of the file system that ``path`` lies, or would lie, on."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
