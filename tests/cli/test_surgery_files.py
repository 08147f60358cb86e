"""What ``edgellm surgery`` does with files: bad input, what exists already, and weights of any size."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from edgellm_core import simplify_onnx
from edgellm_core.cli import edgellm
from edgellm_core.events import peak_rss_mib, reset_peak_rss
from edgellm_core.surgery.patterns.swish import PlainSwish


@pytest.fixture
def silu(tmp_path):
    """A file with one SiLU."""
    nodes = [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Mul", ["x", "s"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "silu", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)
    onnx.save(model, tmp_path / "silu.onnx")
    return tmp_path / "silu.onnx"


def test_a_wrong_rewrite_is_caught_and_leaves_no_file(silu, tmp_path, monkeypatch, fails):
    right = PlainSwish.find

    def wrong(self, node):
        found = right(self, node)
        return None if found is None else type(found)(inner=found.inner, x=found.x, alpha=1.01)

    assert simplify_onnx(silu, tmp_path / "right.onnx").operators_after == {"Swish": 1}
    monkeypatch.setattr(PlainSwish, "find", wrong)
    before = set(tmp_path.iterdir())
    message = fails("surgery", silu, "-o", tmp_path / "out.onnx")
    assert "output 'y' with rows=2 differs by" in message
    assert "Rules that applied: PlainSwish." in message
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "edge-llm"], "Target 'edge-llm' takes decoders, from ids or embeddings to logits; no attention"),
        (["--target", "edge-lm"], "Unknown target 'edge-lm'. Did you mean 'edge-llm'?"),
        (["--dim", "row=2"], "Unknown dimension 'row'. Did you mean 'rows'?"),
        (["--dim", "rows"], "--dim must be NAME=N; got 'rows'."),
    ],
)
def test_bad_options(arguments, message, silu, tmp_path, fails):
    assert message in fails("surgery", silu, "-o", tmp_path / "out.onnx", *arguments)
    assert not (tmp_path / "out.onnx").exists()


def test_input_and_output_must_differ(silu, tmp_path, fails):
    content = silu.read_bytes()
    assert "-o must name another file than the input" in fails("surgery", silu, "-o", silu, "--force")
    link = tmp_path / "link.onnx"
    link.symlink_to(silu)
    assert "-o must name another file than the input" in fails("surgery", silu, "-o", link, "--force")
    assert silu.read_bytes() == content


def test_an_existing_file_is_replaced_only_by_force(silu, tmp_path, fails):
    out = tmp_path / "out.onnx"
    out.write_text("mine")
    assert "exists already" in fails("surgery", silu, "-o", out)
    assert out.read_text() == "mine"
    assert CliRunner().invoke(edgellm, ["surgery", str(silu), "-o", str(out), "--force"]).exit_code == 0
    assert [node.op_type for node in onnx.load(out).graph.node] == ["Swish"]


@pytest.mark.parametrize("content", [b"", b"not a graph at all", b"\x00" * 64])
def test_what_is_no_graph(content, tmp_path, fails):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert "must be an ONNX file" in fails("surgery", path, "-o", tmp_path / "out.onnx")


def test_a_missing_file(tmp_path, fails):
    assert "there is no such file" in fails("surgery", tmp_path / "none.onnx", "-o", tmp_path / "out.onnx")


def big_model(folder, rows=1 << 20, columns=1 << 10):
    """Write a graph with a norm and a weight of 4 GiB whose data file is a hole."""
    weight = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[rows, columns])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "big.data"), ("offset", 0), ("length", 4 * rows * columns)):
        weight.external_data.add(key=key, value=str(value))
    with (folder / "big.data").open("wb") as file:
        os.truncate(file.fileno(), 4 * rows * columns)
    constants = {"two": 2.0, "eps": 1e-5}
    nodes = [
        helper.make_node("Gather", ["weight", "ids"], ["x"]),
        helper.make_node("Pow", ["x", "two"], ["square"]),
        helper.make_node("ReduceMean", ["square"], ["mean"], axes=[-1]),
        helper.make_node("Add", ["mean", "eps"], ["shifted"]),
        helper.make_node("Sqrt", ["shifted"], ["root"]),
        helper.make_node("Div", ["x", "root"], ["normed"]),
        helper.make_node("Mul", ["normed", "gain"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "big",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "seq"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "seq", columns])],
        [
            weight,
            numpy_helper.from_array(np.ones(columns, np.float32), "gain"),
            *(numpy_helper.from_array(np.float32(value), name) for name, value in constants.items()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "big.onnx").write_bytes(model.SerializeToString())
    return folder / "big.onnx"


def test_a_file_of_4_gib_is_rewritten_without_its_weights(tmp_path):
    path, events = big_model(tmp_path), []
    reset_peak_rss()
    before = peak_rss_mib()
    result = simplify_onnx(path, tmp_path / "out.onnx", check="off", listener=events.append)
    assert result.operators_after == {"Gather": 1, "RMSNormalization": 1}
    assert result.check is None
    assert max(event.peak_rss_mib for event in events) - before < 2000  # the weight alone has 4096 MiB
    assert (tmp_path / "big.data").stat().st_blocks == 0
    tensors = onnx.load(tmp_path / "out.onnx", load_external_data=False).graph.initializer
    [weight] = [tensor for tensor in tensors if len(tensor.dims) == 2]
    assert weight.external_data[0].value == "big.data"
    assert (tmp_path / "out.onnx").stat().st_size < 10_000


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data.unlink(), "big.data does not exist"),
        (lambda data: os.truncate(data, 100), "has 100 bytes, and it ends at 4194304"),
    ],
)
def test_missing_data(damage, message, tmp_path, fails):
    path = big_model(tmp_path, rows=1 << 10)
    damage(tmp_path / "big.data")
    assert message in fails("surgery", path, "-o", tmp_path / "out.onnx")
