"""Sizes, digests and durability of the files of a bundle."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from edgellm_core.bundle.manifest import MANIFEST_NAME, FileRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

BUFFER_BYTES: Final = 1 << 20
NONE_KNOWN: Final[Mapping[str, str]] = MappingProxyType({})


def file_records(directory: Path, known: Mapping[str, str] = NONE_KNOWN) -> list[FileRecord]:
    """Return path, size and digest of every file below ``directory`` but the manifest, sorted by path.

    Args:
        directory: the bundle.
        known: path relative to ``directory``, with ``/`` → digest that need not be computed again.
    """
    records = []
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_file() and name != MANIFEST_NAME:
            digest = known.get(name) or sha256_of(path)
            records.append(FileRecord(path=name, bytes=path.stat().st_size, sha256=digest))
    return sorted(records, key=lambda record: record.path)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    buffer = bytearray(BUFFER_BYTES)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()


def sync_tree(directory: Path) -> None:
    """Make every file and folder below ``directory`` survive a power cut."""
    for parent, _, names in os.walk(directory, topdown=False):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))


def sync(path: Path) -> None:
    """Make one file's contents, or one folder's list of names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
