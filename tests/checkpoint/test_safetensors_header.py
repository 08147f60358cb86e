from __future__ import annotations

import json
import re
import struct
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from edgellm_core.checkpoint.errors import CorruptSafetensorsError, TruncatedFileError
from edgellm_core.checkpoint.safetensors_header import read_header
from edgellm_core.errors import UserError
from edgellm_core.untrusted.errors import UnreadableFileError

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "I64": "int64", "U8": "uint8", "BOOL": "bool"}

tensors = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter("__metadata__".__ne__),
    st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), max_size=3)),
    max_size=6,
)  # fmt: skip


def write(path, specs, metadata=None):
    generator = np.random.default_rng(0)
    arrays = {
        name: generator.integers(0, 2, size=shape).astype(DTYPES[dtype]) for name, (dtype, shape) in specs.items()
    }
    safetensors.numpy.save_file(arrays, path, metadata=metadata)
    return arrays


@given(tensors, st.none() | st.dictionaries(st.text("ab", min_size=1), st.text("xyz"), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_read_header_agrees_with_the_safetensors_library(specs, metadata):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        arrays = write(path, specs, metadata)
        header = read_header(path)
        data = path.read_bytes()
        with safe_open(path, "np") as reference:
            assert set(header.tensors) == set(reference.keys())
            assert dict(header.metadata) == (reference.metadata() or {})
            for name, entry in header.tensors.items():
                assert list(entry.shape) == reference.get_slice(name).get_shape()
                assert entry.element_type == reference.get_slice(name).get_dtype()
                assert data[entry.offset : entry.offset + entry.nbytes] == arrays[name].tobytes()


@given(tensors.filter(bool), st.data())
@settings(max_examples=40, deadline=None)
def test_read_header_refuses_a_file_that_ends_at_any_byte(specs, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        write(path, specs)
        content = path.read_bytes()
        length = data.draw(st.integers(0, len(content) - 1))
        path.write_bytes(content[:length])
        with pytest.raises(TruncatedFileError, match=rf"the file has {length}\. "):
            read_header(path)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_read_header_raises_only_user_errors_on_any_bytes(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(struct.pack("<Q", len(content)) + content)
        try:
            header = read_header(path)
        except UserError:
            return
        with safe_open(path, "np") as reference:  # what we accept, the library accepts
            assert set(header.tensors) == set(reference.keys())


def test_truncation_names_file_and_both_sizes(tmp_path):
    path = tmp_path / "model.safetensors"
    write(path, {"w": ("F32", [4, 4])})
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(
        TruncatedFileError, match=rf"model\.safetensors' is truncated.*promises {size} .*has {size - 10}"
    ):
        read_header(path)


def tensor(dtype="F32", shape=(2,), offsets=(0, 8), **extra):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **extra}


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("[]", "not a JSON object"),
        ("{", "not (JSON|UTF-8)"),
        ("[" * 100_000, "not (JSON|UTF-8)"),
        ("\udcff", "not (JSON|UTF-8)"),
        ({"a": tensor(dtype="F33")}, "unknown element type 'F33'"),
        ({"a": tensor(dtype=7)}, "unknown element type 7"),
        ({"a": tensor(shape=[-2])}, "impossible shape"),
        ({"a": tensor(shape=[True, 2])}, "impossible shape"),
        ({"a": tensor(offsets=(8, 0))}, "impossible byte range"),
        ({"a": tensor(offsets=(0, 8, 9))}, "impossible byte range"),
        ({"a": tensor(offsets=(0, 7))}, r"takes 8 bytes"),
        ({"a": tensor(), "b": tensor(offsets=(4, 12))}, "overlaps the tensor before tensor 'b'"),
        ({"a": tensor(), "b": tensor(offsets=(12, 20))}, "leaves a hole before tensor 'b'"),
        ({"a": tensor(offsets=(4, 12))}, "leaves a hole before tensor 'a'"),
        ({"a": tensor()}, "12 bytes follow its last tensor"),
        ({"a": tensor(extra=1)}, "exactly dtype, shape and data_offsets"),
        ({"a": []}, "exactly dtype, shape and data_offsets"),
        ({"__metadata__": {"format": 1}}, "not an object of strings"),
        ('{"a": {}, "a": {}}', "'a' occurs twice"),
    ],
)
def test_read_header_names_what_is_wrong(tmp_path, header, problem):
    text = header if isinstance(header, str) else json.dumps(header)
    raw = text.encode("utf-8", "surrogateescape")
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(20))
    with pytest.raises(CorruptSafetensorsError, match=problem):
        read_header(path)


def test_read_header_refuses_a_giant_header_without_reading_it(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 2**63) + b"{}")
    with pytest.raises(CorruptSafetensorsError, match=r"claims 9223372036854775808 bytes"):
        read_header(path)


def test_read_header_of_a_directory_is_one_sentence(tmp_path):
    with pytest.raises(UnreadableFileError, match=re.escape(f"Can't read '{tmp_path}'")):
        read_header(tmp_path)


@pytest.mark.parametrize(("twice", "said"), [(False, "bytes follow its last tensor"), (True, "'x0' occurs twice")])
def test_many_names_are_read_in_time(tmp_path, twice, said):
    empty = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    names = [*(f"x{number}" for number in range(200_000)), *(["x0"] if twice else [])]
    raw = ("{" + ",".join(f'"{name}":{empty}' for name in names) + "}").encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + b"1")
    started = time.process_time()
    with pytest.raises(CorruptSafetensorsError, match=said):
        read_header(path)
    assert time.process_time() - started < 10  # 1.5 s on an idle core; comparing each name with each takes minutes


def test_a_long_header_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", 90_000_000))
        stream.truncate(2**30)
    with pytest.raises(CorruptSafetensorsError, match="claims 90000000 bytes, more than the 33554432 allowed"):
        read_header(path)
