"""The digest of a checkpoint's values: every byte of its weight files, read by a thread beside the first stages."""

from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from edgellm_core.untrusted.errors import UnreadableFileError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import TracebackType

    from edgellm_core.checkpoint.source import Checkpoint, SourceRecord

CHUNK_BYTES: Final = 1 << 20
"""Bytes that are read at a time; SHA-256 takes about a second for each GiB (OpenSSL on one core)."""

DIGESTED_KINDS: Final = ("gguf", "package")
"""Kinds of sources whose digest is one over all bytes of their file already."""


class ValueDigests:
    """SHA-256 of each weight file of a checkpoint, computed while other stages run.

    Size and times of a file can be set by anybody; its bytes decide whether an earlier result still holds. The thread
    ends with the ``with`` statement, also where it has not finished.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(1, "edgellm-values")

    def __enter__(self) -> ValueDigests:
        """Begin to read."""
        self._future = self._pool.submit(self._digest_all)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop reading."""
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)

    def all(self) -> str:
        """Return one digest over all files, waiting for the thread.

        Raises:
            UnreadableFileError: a file can't be read.
        """
        return _joined(self._future.result().values())

    def source(self) -> SourceRecord:
        """Return the record of the source with a digest that covers its values.

        Raises:
            UnreadableFileError: a file can't be read.
        """
        record = self._checkpoint.source
        if record.kind in DIGESTED_KINDS:
            return record
        digests = self._future.result()
        files = sorted(self._checkpoint.source_files, key=lambda path: path.name)
        return replace(record, digest=_joined([record.digest, *(digests[path] for path in files)]))

    def _digest_all(self) -> dict[Path, str]:
        checkpoint = self._checkpoint
        files = dict.fromkeys([*checkpoint.source_files, *(header.file for header in checkpoint.headers)])
        return {path: self._digest(path) for path in files}

    def _digest(self, path: Path) -> str:
        digest, buffer = hashlib.sha256(), bytearray(CHUNK_BYTES)
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                while not self._stopped.is_set() and (count := os.readv(descriptor, [buffer])):
                    digest.update(memoryview(buffer)[:count])
            finally:
                os.close(descriptor)
        except OSError as error:
            raise UnreadableFileError(path, error) from error
        return digest.hexdigest()


def source_with_values(checkpoint: Checkpoint) -> SourceRecord:
    """Return the record of a checkpoint's source with a digest that covers its values, read now.

    Raises:
        UnreadableFileError: a file can't be read.
    """
    with ValueDigests(checkpoint) as values:
        return values.source()


def _joined(digests: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
