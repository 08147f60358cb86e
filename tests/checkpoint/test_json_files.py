from __future__ import annotations

import os

import pytest

from edgellm_core.checkpoint.errors import NotACheckpointError
from edgellm_core.checkpoint.json_files import read_config
from edgellm_core.untrusted import read_json_object
from edgellm_core.untrusted.errors import CorruptJsonError, NotAFileError, UnreadableFileError


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{\n  "a": 1,\n  "b" 2\n}', r"config\.json', line 3, column 7: not valid JSON \(expecting ':' delimiter\)"),
        (b"", r"line 1, column 1: the file is empty"),
        (b"[1]", r"line 1, column 1: expected an object, found list"),
        (b'{"a": "\xff"}', r"byte 7 is not UTF-8"),
        (b"[" * 100_000, r"nested too deeply"),
    ],
)
def test_corrupt_config_names_file_and_place(tmp_path, content, problem):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CorruptJsonError, match=problem):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"no config\.json \(it is empty\)"),
        (["a.txt", "b.txt"], r"it holds a\.txt, b\.txt\)\. Give the directory that holds config\.json"),
        (["m.gguf"], r"Give the GGUF file itself: '.*m\.gguf'"),
    ],
)
def test_directory_without_config_says_what_is_there(tmp_path, names, message):
    for name in names:
        (tmp_path / name).write_text("")
    with pytest.raises(NotACheckpointError, match=message):
        read_config(tmp_path)


def test_unreadable_config(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(UnreadableFileError, match=r"Can't read '.*config\.json': Is a directory"):
        read_config(tmp_path)


def test_unreadable_directory(tmp_path):
    with pytest.raises(UnreadableFileError, match=r"Can't read '.*gone': No such file or directory"):
        read_config(tmp_path / "gone")


def test_read_json_returns_the_object(tmp_path):
    (tmp_path / "x.json").write_text('{"ä": [1, 2.5, null]}', encoding="utf-8")
    assert read_json_object(tmp_path / "x.json") == {"ä": [1, 2.5, None]}


def test_a_directory_with_a_fifo_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    os.mkfifo(tmp_path / "tokenizer.model")
    with pytest.raises(NotAFileError, match=r"tokenizer\.model' must be a regular file; it is a FIFO"):
        read_config(tmp_path)
