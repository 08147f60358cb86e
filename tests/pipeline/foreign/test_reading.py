"""Where a foreign graph says that its weights lie: inside of its folder, whole, and nowhere else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgellm_core.checkpoint.errors import LinkOutsideError
from edgellm_core.pipeline.foreign.errors import MissingDataError
from edgellm_core.pipeline.foreign.reading import read_graph

PLACE = {"location": "weights.data", "offset": "0", "length": "256"}


def write_graph(folder, data_type=TensorProto.FLOAT, dims=(8, 8), **place):
    """Write ``y = x @ w``, with ``w`` in another file of 256 bytes."""
    weight = TensorProto(name="w", data_type=data_type, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in {**PLACE, **place}.items():
        if value is not None:
            weight.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])],
        [weight],
    )
    path = folder / "model.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    (folder / "weights.data").write_bytes(np.arange(64, dtype=np.float32).tobytes())
    return path


@pytest.mark.parametrize("place", [{}, {"offset": None}, {"length": None}, {"length": "0"}])
def test_what_lies_beside_the_graph_is_read(tmp_path, place):
    read = read_graph(write_graph(tmp_path, **place))
    assert read.data_files == ("weights.data",)


WRONG = {
    "a negative offset": ({"offset": "-4"}, "its offset must be a number of bytes and is '-4'"),
    "a negative length": ({"length": "-256"}, "its length must be a number of bytes and is '-256'"),
    "an offset that is no number": ({"offset": "0x10"}, "its offset must be a number of bytes"),
    "an offset of 5,000 digits": ({"offset": "9" * 5000}, "its offset must be a number of bytes"),
    "an offset behind the end": ({"offset": "4"}, "has 256 bytes, and it ends at 260"),
    "no length, behind the end": ({"offset": "4", "length": None}, "has 256 bytes, and it ends at 260"),
    "a length of another shape": ({"length": "128"}, "its length is 128 bytes, and its shape takes 256"),
    "no place": ({"location": ""}, "is not inside of the graph's folder"),
    "an absolute place": ({"location": "/etc/passwd"}, "is not inside of the graph's folder"),
    "a place above": ({"location": "../weights.data"}, "is not inside of the graph's folder"),
    "a file that is not there": ({"location": "other.data"}, "does not exist"),
    "a negative size": ({"dims": (-8, -8)}, "it has a negative size"),
    "strings": ({"data_type": TensorProto.STRING}, "holds strings"),
    "an unknown type": ({"data_type": 99}, "its type 99 is none of ONNX"),
}


@pytest.mark.parametrize(("place", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_place_is_one_sentence(tmp_path, place, message):
    with pytest.raises(MissingDataError, match=message):
        read_graph(write_graph(tmp_path, **place))


def test_four_bits_take_half_a_byte(tmp_path):
    path = write_graph(tmp_path, data_type=TensorProto.INT4, dims=(8, 64))
    assert read_graph(path).data_files == ("weights.data",)


def test_a_link_to_a_file_elsewhere_is_refused(tmp_path):
    folder = tmp_path / "graph"
    folder.mkdir()
    path = write_graph(folder)
    (folder / "weights.data").rename(tmp_path / "elsewhere")
    (folder / "weights.data").symlink_to("../elsewhere")
    with pytest.raises(LinkOutsideError, match=r"weights\.data"):
        read_graph(path)
    (folder / "weights.data").unlink()
    (tmp_path / "elsewhere").rename(folder / "weights.data")
    assert onnx.load(path).graph.initializer[0].raw_data
    assert read_graph(path).data_files == ("weights.data",)
