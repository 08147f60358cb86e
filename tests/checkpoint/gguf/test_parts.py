from __future__ import annotations

import shutil

import gguf
import numpy as np
import pytest

from edgellm_core.checkpoint.errors import CorruptGgufError, MissingGgufPartError
from edgellm_core.checkpoint.gguf.parts import read_gguf


@pytest.fixture
def parts(tmp_path):
    writer = gguf.GGUFWriter(str(tmp_path / "x.gguf"), "llama", split_max_tensors=2)
    writer.add_block_count(3)
    for index in range(5):
        writer.add_tensor(f"t{index}", np.full((2, 3), index, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(tmp_path.glob("x-*.gguf"))


def test_every_part_names_the_model(parts):
    assert [part.name for part in parts] == [f"x-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    for part in parts:
        header = read_gguf(part)
        assert (header.file, header.files) == (part, tuple(parts))
        assert header.fields["llama.block_count"] == 3
        assert [tensor.name for tensor in header.tensors] == [f"t{index}" for index in range(5)]
        for index, tensor in enumerate(header.tensors):
            data = np.fromfile(tensor.file, np.float32, 6, offset=tensor.offset)
            assert np.array_equal(data, np.full(6, index, np.float32))


def test_missing_part_is_named(parts):
    parts[1].unlink()
    with pytest.raises(
        MissingGgufPartError, match=r"one of 3 parts of a model, and 1 .* missing: x-00002-of-00003\.gguf"
    ):
        read_gguf(parts[0])


def test_part_with_another_name(parts):
    other = parts[0].rename(parts[0].with_name("model.gguf"))
    with pytest.raises(CorruptGgufError, match=r"one of 3 parts, and its name is not NAME-00001-of-00003\.gguf"):
        read_gguf(other)


def test_parts_in_each_others_place(parts):
    shutil.copy(parts[2], parts[1])
    with pytest.raises(CorruptGgufError, match="says that it is part 3 of 3, its name says 2"):
        read_gguf(parts[0])


def test_parts_of_two_models(parts, tmp_path):
    writer = gguf.GGUFWriter(str(tmp_path / "other.gguf"), "llama", split_max_tensors=2)
    for index in range(5):
        writer.add_tensor("t0" if index == 4 else f"u{index}", np.ones((2, 3), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    shutil.copy(tmp_path / "other-00003-of-00003.gguf", parts[2])
    with pytest.raises(CorruptGgufError, match="its parts hold 4 different tensors, and 5 are promised"):
        read_gguf(parts[0])
