"""How much memory and disk this machine has left."""

from __future__ import annotations

import shutil
from pathlib import Path


def available_memory() -> int:
    """Return the bytes of memory that can be taken without swapping, within the limit of the control group.

    Source: Linux ``cgroups(7)``; version 2 (``memory.max``), then version 1 (``memory.limit_in_bytes``).
    """
    import psutil

    free = int(psutil.virtual_memory().available)
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            left = int(Path(limit).read_text()) - int(Path(used).read_text())
        except (OSError, ValueError):  # not this version, or "max": no limit
            continue
        # A group's usage counts the page cache, which the kernel gives back; a negative rest is no information.
        return min(free, left) if left > 0 else free
    return free


def free_disk(path: Path) -> int:
    """Return the free bytes of the file system that ``path`` lies, or would lie, on."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
