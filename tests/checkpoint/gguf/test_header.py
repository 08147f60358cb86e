from __future__ import annotations

import struct
import tempfile
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_files import write_llama_gguf
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm_core.checkpoint.errors import CorruptGgufError, TruncatedFileError
from edgellm_core.checkpoint.gguf.config import read_gguf_config
from edgellm_core.checkpoint.gguf.forms import find_form
from edgellm_core.checkpoint.gguf.header import BLOCKS, read_gguf_header
from edgellm_core.checkpoint.gguf.metadata import architecture, stop_tokens
from edgellm_core.errors import UserError
from edgellm_core.host import PluginHost
from edgellm_core.registry import ModelRegistry, package_weights
from edgellm_core.untrusted.errors import UnreadableFileError

QUANTIZED = [gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0]
names = st.text(st.characters(min_codepoint=97, max_codepoint=0x17F), min_size=1, max_size=12)
values = st.one_of(
    st.integers(-(2**31), 2**31 - 1),
    st.booleans(),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),  # the writer leaves out an empty one
    st.lists(st.integers(0, 1000), min_size=1, max_size=5),
    st.lists(st.text("xyz", max_size=3), min_size=1, max_size=5),
)
tensors = st.dictionaries(
    names,
    st.tuples(st.lists(st.integers(1, 4), min_size=1, max_size=2), st.sampled_from(["f4", "f2", *QUANTIZED])),
    max_size=4,
)


def write(path, fields, specs):
    writer = gguf.GGUFWriter(str(path), "test")
    for key, value in fields.items():
        name = f"x.{key}"
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_int32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        else:
            writer.add_array(name, value)
    for name, (shape, kind) in specs.items():
        if isinstance(kind, str):
            writer.add_tensor(name, np.ones(shape, kind))
        else:
            data = gguf.quantize(np.ones([*shape[:-1], shape[-1] * 32], np.float32), kind)
            writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_block_sizes_are_those_of_the_gguf_package():
    for kind, (name, elements, nbytes) in BLOCKS.items():
        assert gguf.GGMLQuantizationType(kind).name == name
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)] == (elements, nbytes)


@given(st.dictionaries(names, values, max_size=4), tensors)
@settings(max_examples=60, deadline=None)
def test_header_agrees_with_the_gguf_package(fields, specs):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.gguf"
        write(path, fields, specs)
        header, reference = read_gguf_header(path), gguf.GGUFReader(path)
        for key, value in fields.items():
            if isinstance(value, list):
                assert header.array_lengths[f"x.{key}"] == len(value)
            if not (isinstance(value, list) and isinstance(value[0], str)):
                assert header.fields[f"x.{key}"] == reference.get_field(f"x.{key}").contents() == value
        expected = {
            tensor.name: (tensor.tensor_type.name, tuple(int(size) for size in tensor.shape[::-1]), int(tensor.n_bytes))
            for tensor in reference.tensors
        }
        assert {t.name: (t.element_type, t.shape, t.nbytes) for t in header.tensors} == expected
        del reference  # it maps the file


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_file_that_ends_at_any_byte_is_refused(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.gguf"
        write(path, {"a": 3, "b": ["x", "yz"], "c": [1, 2]}, {"w": ([3, 4], "f4"), "v": ([8], "f4")})
        content = path.read_bytes()
        length = data.draw(st.integers(0, len(content) - 1))
        path.write_bytes(content[:length])
        with pytest.raises(CorruptGgufError if length < 4 else TruncatedFileError, match=r"x\.gguf"):
            read_gguf_header(path)


@given(st.binary(max_size=120))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_a_header_or_one_sentence(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.gguf"
        path.write_bytes(b"GGUF" + struct.pack("<I", 3) + content)
        try:
            read_gguf_header(path)
        except UserError:
            return


def header_bytes(version=3, tensors=0, fields=(), endian="<"):
    return b"GGUF" + struct.pack(endian + "IQQ", version, tensors, len(fields)) + b"".join(fields)


def text(value):
    return struct.pack("<Q", len(value)) + value


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "does not begin with 'GGUF'"),
        (b"PK\x03\x04" + bytes(60), "does not begin with 'GGUF'"),
        (header_bytes(version=1), "version is 1, not 2 or 3"),
        (header_bytes(endian=">"), "big-endian"),
        (header_bytes(fields=[text(b"\xff") + struct.pack("<II", 4, 1)]), "is not UTF-8"),
        (header_bytes(fields=[text(b"k") + struct.pack("<II", 99, 1)]), "'k' has the unknown metadata type 99"),
        (header_bytes(fields=[text(b"k") + struct.pack("<IIQ", 9, 9, 1)]), "'k' is an array of the unknown type 9"),
        (
            header_bytes(fields=[text(b"general.alignment") + struct.pack("<II", 4, 0)]),
            "general.alignment is 0",
        ),
        (header_bytes(tensors=1) + text(b"w") + struct.pack("<I", 1000), "'w' has 1000 dimensions"),
        (
            header_bytes(tensors=1) + text(b"w") + struct.pack("<IQIQ", 1, 4, 77, 0) + bytes(64),
            "'w' has the unknown element type 77",
        ),
        (
            header_bytes(tensors=1) + text(b"w") + struct.pack("<IQIQ", 1, 4, 3, 0) + bytes(64),
            "does not divide into Q4_1 blocks",
        ),
        (
            header_bytes(tensors=2) + 2 * (text(b"w") + struct.pack("<IQIQ", 1, 1, 0, 0)) + bytes(64),
            "two tensors have the same name",
        ),
    ],
)
def test_corrupt_headers_name_the_problem(tmp_path, content, problem):
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(CorruptGgufError, match=problem):
        read_gguf_header(path)


def test_missing_file(tmp_path):
    with pytest.raises(UnreadableFileError, match="No such file"):
        read_gguf_header(tmp_path / "x.gguf")


def test_config_of_the_real_file():
    header = read_gguf_header(package_weights(ModelRegistry.load().get("smollm2-135m-instruct")))
    reading = read_gguf_config(header, *find_form(PluginHost.load(), header))
    assert reading.findings == ()
    assert reading.config == {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 30, "hidden_size": 576,
        "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 8192, "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
        "vocab_size": 49152, "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
    }  # fmt: skip
    assert stop_tokens(header) == [2]


def test_reading_the_real_header_is_fast():
    path = package_weights(ModelRegistry.load().get("smollm2-135m-instruct"))
    started = time.process_time()
    read_gguf_header(path)
    assert time.process_time() - started < 0.25  # the gguf package takes 2.8 s


def test_config_without_architecture(tmp_path):
    (tmp_path / "x.gguf").write_bytes(header_bytes() + bytes(32))
    with pytest.raises(CorruptGgufError, match=r"no general\.architecture"):
        architecture(read_gguf_header(tmp_path / "x.gguf"))


@pytest.mark.parametrize(("stops", "expected"), [((2, 1), [2, 1]), ((2,), [2]), ((2, 2), [2])])
def test_stop_tokens_come_once_each(tmp_path, stops, expected):
    assert stop_tokens(read_gguf_header(write_llama_gguf(tmp_path / "x.gguf", stops=stops))) == expected
