"""Checkpoints that edgellm converted once and keeps in the cache directory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm_core.checkpoint.errors import CacheWriteError, DiskSpaceError
from edgellm_core.checkpoint.machine import free_disk
from edgellm_core.settings import cache_directory

if TYPE_CHECKING:
    from collections.abc import Callable


def conversion_directory(key: str, version: int) -> Path:
    """Return where a converted checkpoint lies; it is a directory once it is complete.

    Args:
        key: changes with the source.
        version: changes with what conversions write.
    """
    return cache_directory() / "checkpoints" / f"{key}-{version}"


def write_conversion(directory: Path, write: Callable[[Path], None], *, what: str, needed: int) -> None:
    """Make a converted checkpoint; it appears by one rename, so an interrupted conversion leaves none.

    Args:
        directory: where it will lie.
        write: fills a directory, which it creates.
        what: the conversion, for errors.
        needed: bytes that it will take.

    Raises:
        DiskSpaceError: it does not fit into the cache.
        CacheWriteError: the cache can't be written.
    """
    free = free_disk(directory)
    if needed > free:
        raise DiskSpaceError(what, directory, needed=needed, free=free)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name[:12]}-") as scratch:
            made = Path(scratch) / "checkpoint"
            write(made)
            _publish(made, directory)
    except OSError as error:
        raise CacheWriteError(directory.parent, error) from error


def _publish(made: Path, directory: Path) -> None:
    """Rename a finished conversion into place; another process may have been faster."""
    try:
        made.rename(directory)
    except OSError:
        if not directory.is_dir():
            raise
