"""The plugin for float16 experts as a function, against loops over tokens and their experts in float64."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgellm_core.runtime.errors import PluginAttributeError
from edgellm_core.runtime.paged.functions import add_functions

EXPERTS, HIDDEN, INNER, TOKENS = 6, 8, 128, 5
FIXED = {"num_experts": EXPERTS, "hidden_size": HIDDEN, "moe_inter_size": INNER}


def run(attributes, arrays):
    kinds = {np.float16: TensorProto.FLOAT16, np.float32: TensorProto.FLOAT}
    node = helper.make_node("Fp16MoePlugin", list(arrays), ["y"], domain="trt_edgellm", **attributes)
    inputs = [helper.make_tensor_value_info(n, kinds[a.dtype.type], a.shape) for n, a in arrays.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT16, None)
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("trt_edgellm", 1)]
    model = helper.make_model(helper.make_graph([node], "one", inputs, [output]), opset_imports=opsets, ir_version=11)
    add_functions(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, arrays)[0]


def written_out(arrays, top_k, *, normalised):
    """One token after the other; rows of ``fc1`` lie as 64 of up, 64 of gate, and so on."""
    logits, hidden, fc1, fc2 = (array.astype(np.float64) for array in arrays.values())
    total = np.zeros(hidden.shape)
    for token, row in enumerate(logits):
        shares = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        chosen = np.argsort(-shares)[:top_k]
        weights = shares[chosen] / (shares[chosen].sum() if normalised else 1)
        for expert, weight in zip(chosen, weights, strict=True):
            product = fc1[expert] @ hidden[token]
            up = np.concatenate([product[start : start + 64] for start in range(0, 2 * INNER, 128)])
            gate = np.concatenate([product[start : start + 64] for start in range(64, 2 * INNER, 128)])
            total[token] += weight * (fc2[expert] @ (gate / (1 + np.exp(-gate)) * up))
    return total


@pytest.mark.parametrize("top_k", [1, 3])
@pytest.mark.parametrize("normalised", [0, 1])
def test_the_plugin_mixes_the_chosen_experts(top_k, normalised):
    random = np.random.default_rng(top_k)
    arrays = {
        "logits": random.standard_normal((TOKENS, EXPERTS)).astype(np.float32),
        "hidden": random.standard_normal((TOKENS, HIDDEN)).astype(np.float16),
        "fc1": (random.standard_normal((EXPERTS, 2 * INNER, HIDDEN)) / 3).astype(np.float16),
        "fc2": (random.standard_normal((EXPERTS, HIDDEN, INNER)) / 8).astype(np.float16),
    }
    attributes = {**FIXED, "top_k": top_k, "norm_topk_prob": normalised, "activation_type": 2, "max_routed_rows": 0}
    found, expected = run(attributes, arrays), written_out(arrays, top_k, normalised=normalised)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize(("attribute", "value"), [("activation_type", 4), ("max_routed_rows", 8), ("routing_mode", 1)])
def test_what_the_target_never_writes_is_refused(attribute, value):
    attributes = {**FIXED, "top_k": 1, "norm_topk_prob": 1, "activation_type": 2, attribute: value}
    with pytest.raises(PluginAttributeError, match=f"Fp16MoePlugin must have {attribute} [02] "):
        run(attributes, {name: np.zeros((1, 1), np.float16) for name in ("logits", "hidden", "fc1", "fc2")})
