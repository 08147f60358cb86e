"""The fp8 cache: rounding again what was rounded with the same scale changes nothing."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
from small_graphs import NOTHING, model_of, node, semantic

from edgellm_core.quantization.model import QuantizedModel
from edgellm_core.runtime.session import state_value
from edgellm_core.surgery.run import run_rules
from edgellm_core.targets.onnx.quantized_cache import QuantizedAppend
from edgellm_core.tracing.graph_import import import_graph

CODES = np.arange(256, dtype=np.uint8)
FINITE = CODES[(CODES & 0x7F) != 0x7F]


def appending_graph():
    """A graph that appends to one cache in fp8, and shows what attention would see."""
    past, width = "past_key_values.0.key", [1, 1, "length", 2]
    nodes = [semantic("Append", f"{past} new", "present.0.key"), node("Neg", "present.0.key", "seen")]
    outputs = dict.fromkeys(("present.0.key", "seen"), (np.float16, width))
    model = model_of(nodes, {past: (np.float16, width), "new": (np.float16, width)}, outputs)
    graph = import_graph(model)
    rule = QuantizedAppend(QuantizedModel(element_type="F16", caches={past: "scale"}))
    assert [result.applied for result in run_rules(graph, [rule], NOTHING)] == [1]
    changed = gs.export_onnx(graph)
    changed.ir_version = 11
    return changed


@pytest.mark.parametrize("scale", [2.0**-14, 0.0123, 0.37, 1.0, 100.0])
def test_every_number_of_the_cache_survives_the_next_step(scale):
    changed = appending_graph()
    changed.graph.initializer.append(onnx.numpy_helper.from_array(np.float16(scale), "scale"))
    session = onnxruntime.InferenceSession(changed.SerializeToString(), providers=["CPUExecutionProvider"])
    past = FINITE.reshape(1, 1, -1, 2)
    new = np.array([[[[0.5, -1e9]]]], np.float32).clip(-60000, 60000).astype(np.float16)
    feeds = {
        "past_key_values.0.key": state_value(past, "tensor(float8e4m3fn)"),
        "new": state_value(new, "tensor(float16)"),
    }
    present, seen = (value.numpy() for value in session.run_with_ort_values(["present.0.key", "seen"], feeds))
    rounded = (new.astype(np.float32) / np.float32(np.float16(scale))).clip(-448, 448).astype(ml_dtypes.float8_e4m3fn)
    np.testing.assert_array_equal(present[:, :, :-1], past)
    np.testing.assert_array_equal(present[:, :, -1:], rounded.view(np.uint8))
    wide = present.view(ml_dtypes.float8_e4m3fn).astype(np.float32) * np.float32(np.float16(scale))
    np.testing.assert_array_equal(-seen, wide.astype(np.float16))
