"""Files that are written and hashed while the next chunk is prepared."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from edgellm_core.weights import sink
from edgellm_core.weights.errors import WeightsNotWrittenError
from edgellm_core.weights.sink import DigestedFile

CHUNK = 4096


def write(path, chunks):
    with DigestedFile(path, sum(map(len, chunks)), chunk_bytes=CHUNK) as file:
        for chunk in chunks:
            file.buffer()[: len(chunk)] = np.frombuffer(chunk, np.uint8)
            file.commit(len(chunk))
        return file.finish()


@pytest.mark.parametrize("writeback", [1, CHUNK, 10 * CHUNK])
def test_bytes_and_digest_whenever_writeback_starts(tmp_path, monkeypatch, writeback):
    monkeypatch.setattr(sink, "WRITEBACK_BYTES", writeback)
    chunks = [bytes([index]) * (CHUNK - index) for index in range(40)]
    digest = write(tmp_path / "file", chunks)
    assert (tmp_path / "file").read_bytes() == b"".join(chunks)
    assert digest == hashlib.sha256(b"".join(chunks)).hexdigest()


def test_file_disappears_when_the_body_fails(tmp_path):
    with pytest.raises(ValueError, match="stop"), DigestedFile(tmp_path / "file", 10, chunk_bytes=CHUNK):
        raise ValueError("stop")
    assert not (tmp_path / "file").exists()


def test_missing_directory_is_named(tmp_path):
    with (
        pytest.raises(WeightsNotWrittenError, match="missing"),
        DigestedFile(tmp_path / "missing" / "f", 1, chunk_bytes=1),
    ):
        pass
