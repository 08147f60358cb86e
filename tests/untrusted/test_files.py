"""Files from outside: what is no file, and what is too large, is refused before it is read."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from edgellm_core.untrusted import FileLimitError, NotAFileError, UnreadableFileError, read_bytes, read_text
from edgellm_core.untrusted.limits import MIB, Limit

SMALL = Limit(what="a small file", most=8, unit="bytes", bounds="nothing")


def test_a_file_up_to_the_limit_is_read(tmp_path):
    (tmp_path / "x").write_bytes(b"12345678")
    assert read_bytes(tmp_path / "x", SMALL) == b"12345678"
    assert read_text(tmp_path / "x", SMALL) == "12345678"


def test_a_larger_file_is_not_opened(tmp_path):
    with (tmp_path / "x").open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(FileLimitError, match=r"x' is not read: a small file may have at most 8 bytes; it has .* MiB"):
        read_bytes(tmp_path / "x", SMALL)


def test_a_file_that_says_it_is_empty_is_read_up_to_the_limit():
    with pytest.raises(FileLimitError, match="at most 8 bytes; it has 9 bytes"):
        read_bytes(Path("/proc/self/status"), SMALL)


def test_a_fifo_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(NotAFileError, match=f"{name}' must be a regular file; it is a FIFO. Remove it"):
            read_bytes(tmp_path / name, SMALL)


def test_a_socket_and_a_device_are_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        with pytest.raises(NotAFileError, match="it is a socket"):
            read_bytes(tmp_path / "socket", SMALL)
    with pytest.raises(NotAFileError, match="it is a device"):
        read_bytes(Path("/dev/zero"), SMALL)


@pytest.mark.parametrize("name", ["gone", "a" * 300, "a\0b", "."])
def test_what_can_not_be_read_is_named(tmp_path, name):
    with pytest.raises(UnreadableFileError, match=r"Can't read '.*': .*Check the path"):
        read_bytes(tmp_path / name, SMALL)


def test_sizes_are_shown_in_readable_units():
    assert Limit(what="x", most=16 * MIB, unit="bytes", bounds="").shown() == "16 MiB"
    assert Limit(what="x", most=100_000, unit="entries", bounds="").shown() == "100,000 entries"
