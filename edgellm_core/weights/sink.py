"""A file that is written and hashed by two threads while the caller prepares the next chunk."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import numpy as np

from edgellm_core.weights.errors import WeightsNotWrittenError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

DEPTH: Final = 4
"""Chunks in flight; enough to keep both threads busy (2 cores), and a small part of the memory budget."""

WRITEBACK_BYTES: Final = 64 * 1024 * 1024
"""The kernel is asked to start writing to disk after so many bytes, so that little is dirty when the file is synced."""


class DigestedFile:
    """Writes chunks in order; the file disappears again if the body of the ``with`` statement fails.

    ``buffer()`` hands out memory for the next chunk, ``commit()`` writes and hashes its first bytes, ``finish()``
    returns the SHA-256 of all. Hashing, writing and reading release the GIL, so they really run side by side.
    """

    def __init__(self, path: Path, total: int, *, chunk_bytes: int) -> None:
        """Prepare to write ``total`` bytes to ``path`` in chunks of at most ``chunk_bytes``."""
        self._path = path
        self._total = total
        self._chunk_bytes = chunk_bytes
        self._digest = hashlib.sha256()
        self._free: list[NDArray[np.uint8]] = [np.empty(chunk_bytes, np.uint8) for _ in range(DEPTH)]
        self._in_flight: deque[tuple[NDArray[np.uint8], Future[None], Future[None]]] = deque()
        self._hasher = ThreadPoolExecutor(1, "edgellm-hash")
        self._writer = ThreadPoolExecutor(1, "edgellm-write")
        self._descriptor = -1
        self._written = 0
        self._flushing = 0
        self.position = 0

    def __enter__(self) -> DigestedFile:
        """Open the file and reserve its whole size.

        Raises:
            WeightsNotWrittenError: no space, no permission, or no such directory.
        """
        try:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            self._reserve()
        except OSError as error:
            self._abandon()
            raise WeightsNotWrittenError(self._path, self._total, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file; remove it after an error."""
        self._hasher.shutdown(cancel_futures=True)
        self._writer.shutdown(cancel_futures=True)
        if kind is not None:
            self._abandon()
        elif self._descriptor >= 0:
            os.close(self._descriptor)

    def buffer(self) -> NDArray[np.uint8]:
        """Return memory for the next chunk, waiting for the oldest one to be written where none is free."""
        if not self._free:
            self._wait_for_oldest()
        return self._free[-1]

    def commit(self, nbytes: int) -> None:
        """Write and hash the first ``nbytes`` of the last ``buffer()``."""
        buffer = self._free.pop()
        view = buffer.data[:nbytes]
        hashed = self._hasher.submit(self._digest.update, view)
        self._in_flight.append((buffer, hashed, self._writer.submit(self._write, view)))
        self.position += nbytes

    def pad_to(self, position: int) -> None:
        """Write zeros up to a position."""
        while self.position < position:
            count = min(position - self.position, self._chunk_bytes)
            self.buffer()[:count] = 0
            self.commit(count)

    def finish(self) -> str:
        """Wait for everything and return the SHA-256 in hexadecimal digits."""
        while self._in_flight:
            self._wait_for_oldest()
        return self._digest.hexdigest()

    def _wait_for_oldest(self) -> None:
        buffer, hashed, written = self._in_flight.popleft()
        hashed.result()
        try:
            written.result()
        except OSError as error:
            raise WeightsNotWrittenError(self._path, self._total, error) from error
        self._free.append(buffer)

    def _write(self, view: memoryview) -> None:
        self._written += len(view)
        while view:
            view = view[os.write(self._descriptor, view) :]
        if self._written - self._flushing >= WRITEBACK_BYTES:
            self._start_writeback()

    def _start_writeback(self) -> None:
        # DONTNEED starts the writing of dirty pages without waiting and keeps them (mm/fadvise.c, generic_fadvise).
        if hasattr(os, "posix_fadvise"):  # not on macOS
            length = self._written - self._flushing
            os.posix_fadvise(self._descriptor, self._flushing, length, os.POSIX_FADV_DONTNEED)
        self._flushing = self._written

    def _reserve(self) -> None:
        if self._total and hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(self._descriptor, 0, self._total)

    def _abandon(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._path.unlink(missing_ok=True)
