"""Weights that are lent to a session: the same results, and none is held twice or raised whole where it is large."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgellm_core.runtime.float32_twin import raise_to_float32
from edgellm_core.verification import lent_weights, session
from edgellm_core.verification.lent_weights import lend
from edgellm_core.verification.session import open_graph

ROWS, WIDTH = 64, 32


def model_with_head(folder, element_type=TensorProto.FLOAT16, tied=True):
    """Return ``ids → rows of a table → a product with a layer's weight → logits``, its weights in a file."""
    generator = np.random.default_rng(0)
    stored = {
        "table": (ROWS, WIDTH),
        "layer.weight": (WIDTH, WIDTH),
        **({} if tied else {"head.weight": (ROWS, WIDTH)}),
    }
    tensors, offset = [], 0
    with (folder / "data").open("wb") as file:
        for name, shape in stored.items():
            values = generator.standard_normal(shape).astype(np.float32)
            if element_type == TensorProto.BFLOAT16:
                data = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
            else:
                data = values.astype(
                    {TensorProto.FLOAT16: np.float16, TensorProto.FLOAT: np.float32}[element_type]
                ).tobytes()
            file.write(data)
            tensor = TensorProto(name=name, data_type=element_type, dims=shape, data_location=TensorProto.EXTERNAL)
            for key, value in {"location": "data", "offset": offset, "length": len(data)}.items():
                tensor.external_data.add(key=key, value=str(value))
            tensors.append(tensor)
            offset += len(data)
    head = "table" if tied else "head.weight"
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"], name="embed"),
        helper.make_node("Transpose", ["layer.weight"], ["layer.T"], name="layer/T", perm=[1, 0]),
        helper.make_node("MatMul", ["embedded", "layer.T"], ["hidden"], name="layer"),
        helper.make_node("Transpose", [head], ["head.T"], name="head/T", perm=[1, 0]),
        helper.make_node("MatMul", ["hidden", "head.T"], ["logits"], name="head"),
    ]
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "seq"])
    logits = helper.make_tensor_value_info("logits", element_type, ["batch", "seq", ROWS])
    graph = helper.make_graph(nodes, "decoder", [ids], [logits], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)


def run(model, folder):
    import onnxruntime

    ids = onnxruntime.OrtValue.ortvalue_from_numpy(np.array([[1, 5, 63]]))
    opened = open_graph(model, folder, [])
    assert [value.name for value in opened.get_inputs()] == ["input_ids"]
    return opened.run_with_ort_values(["logits"], {"input_ids": ids})[0].numpy()


@pytest.fixture
def _small(monkeypatch):
    monkeypatch.setattr(lent_weights, "LEAST_BYTES", 1)
    monkeypatch.setattr(lent_weights, "LARGE_TABLE", ROWS * WIDTH)
    monkeypatch.setattr(lent_weights, "BLOCK_ROWS", 24)


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("element_type", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT])
def test_lent_weights_change_no_result(tmp_path, monkeypatch, element_type, tied):
    model = model_with_head(tmp_path, element_type, tied)
    raise_to_float32(model)
    raise_to_float32(model, TensorProto.FLOAT16)
    found = run(model, tmp_path)
    monkeypatch.setattr(session, "lend", lambda *_, **__: {})
    wanted = run(model, tmp_path)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.usefixtures("_small")
def test_a_head_in_float16_arithmetic_is_cut_too(tmp_path, monkeypatch):
    model = model_with_head(tmp_path)
    found = run(model, tmp_path).astype(np.float32)
    monkeypatch.setattr(session, "lend", lambda *_, **__: {})
    wanted = run(model, tmp_path).astype(np.float32)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=4e-3 * np.abs(wanted).max())


@pytest.mark.usefixtures("_small")
def test_nothing_large_stays_in_the_graph(tmp_path):
    model = model_with_head(tmp_path, tied=False)
    raise_to_float32(model, TensorProto.FLOAT16)
    lent = lend(model, tmp_path, quantized=False)
    blocks = [f"logits/rows.{start}" for start in (0, 24, 48)]
    assert sorted(lent) == sorted([*blocks, "layer.weight"])
    assert [lent[name].shape() for name in blocks] == [[24, WIDTH], [24, WIDTH], [16, WIDTH]]
    assert lent["layer.weight"].data_type() == "tensor(float)"
    assert [tensor.name for tensor in model.graph.initializer] == ["table/float16"], "rows of it are gathered"


@pytest.mark.usefixtures("_small")
def test_of_a_quantized_graph_only_what_is_multiplied_is_lent(tmp_path):
    model = model_with_head(tmp_path, TensorProto.FLOAT, tied=False)
    lent = lend(model, tmp_path, quantized=True)
    assert sorted(lent) == ["head.weight", "layer.weight"]
