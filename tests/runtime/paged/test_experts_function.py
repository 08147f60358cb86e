"""The plugins for experts as functions, against loops over tokens and their experts in float64."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgellm_core.runtime.errors import PluginAttributeError
from edgellm_core.runtime.paged.functions import add_functions

EXPERTS, HIDDEN, INNER, TOKENS = 6, 8, 128, 5
FIXED = {"num_experts": EXPERTS, "hidden_size": HIDDEN, "moe_inter_size": INNER}


def run(attributes, arrays, plugin="Fp16MoePlugin"):
    kinds = {np.float16: TensorProto.FLOAT16, np.float32: TensorProto.FLOAT, np.int8: TensorProto.INT8}
    node = helper.make_node(plugin, list(arrays), ["y"], domain="trt_edgellm", **attributes)
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


def words_of(weight):
    """Pack integers -8 … 7 ``[outputs, inputs]`` as the contract says."""
    outputs, inputs = weight.shape
    words = np.zeros((inputs // 16, 2 * outputs), np.uint32)
    for output, k in np.ndindex(outputs, inputs):
        quarter, right, column = output % 64 // 16, output % 16 // 8, output % 8
        far, pair, odd = k % 16 // 8, k % 8 // 2, k % 2
        word = output // 64 * 128 + 16 * column + 4 * pair + quarter
        words[k // 16, word] |= np.uint32(int(weight[output, k]) + 8 << 4 * (4 * odd + 2 * right + far))
    return words.view(np.int8)


def scales_of(scales):
    """Order scales ``[outputs, groups]`` as the contract says."""
    outputs, groups = scales.shape
    placed = np.empty((groups, outputs), np.float16)
    for output in range(outputs):
        if groups > 1:
            place = output // 64 * 64 + 8 * (output % 8) + output % 64 // 8
        else:
            place = output // 32 * 32 + 8 * (output % 8 // 2) + 2 * (output % 32 // 8) + output % 2
        placed[:, place] = scales[output]
    return placed


@pytest.mark.parametrize("group", [32, 64])
def test_the_plugin_mixes_four_bit_experts(group):
    random, experts, hidden, inner, chosen_experts = np.random.default_rng(group), 3, 64, 128, 2
    sizes = {"gate_up": (2 * inner, hidden), "down": (hidden, inner)}
    codes = {name: random.integers(-8, 8, (experts, *size)) for name, size in sizes.items()}
    scales = {
        name: random.uniform(0.01, 0.03, (experts, size[0], size[1] // group)).astype(np.float16)
        for name, size in sizes.items()
    }
    arrays = {
        "logits": random.standard_normal((TOKENS, experts)).astype(np.float32),
        "hidden": random.standard_normal((TOKENS, hidden)).astype(np.float16),
    }
    for name in sizes:
        arrays[name] = np.stack([words_of(one) for one in codes[name]])
        arrays[f"{name}_scales"] = np.stack([scales_of(one) for one in scales[name]])
    attributes = {
        "num_experts": experts, "top_k": chosen_experts, "hidden_size": hidden, "moe_inter_size": inner,
        "activation_type": 0, "quantization_group_size": group,
    }  # fmt: skip
    found = run(attributes, arrays, plugin="Int4MoePlugin")

    gate_up, down = (codes[n] * np.repeat(scales[n].astype(np.float64), group, axis=2) for n in sizes)
    expected = np.zeros((TOKENS, hidden))
    for token, row in enumerate(arrays["logits"].astype(np.float64)):
        chosen = np.argsort(-row)[:chosen_experts]
        weights = np.exp(row[chosen]) / np.exp(row[chosen]).sum()
        for expert, weight in zip(chosen, weights, strict=True):
            gate, up = np.split(gate_up[expert] @ arrays["hidden"][token].astype(np.float64), 2)
            expected[token] += weight * (down[expert] @ (gate / (1 + np.exp(-gate)) * up))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


def test_another_activation_is_refused():
    attributes = {
        "num_experts": 1, "top_k": 1, "hidden_size": 64, "moe_inter_size": 64, "activation_type": 5,
        "quantization_group_size": 64,
    }  # fmt: skip
    with pytest.raises(PluginAttributeError, match="Int4MoePlugin must have activation_type 0 "):
        run(attributes, {"logits": np.zeros((1, 1), np.float32)}, plugin="Int4MoePlugin")
