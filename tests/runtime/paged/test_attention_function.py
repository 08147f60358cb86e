"""The plugin's function against attention written out in numpy, one sequence and head at a time."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from edgellm_core.runtime.errors import PluginAttributeError
from edgellm_core.runtime.paged.functions import add_functions
from edgellm_core.runtime.session import state_value

HEADS, KV_HEADS, SIZE, ROTARY = 4, 2, 8, 4
ATTRIBUTES = {
    "num_q_heads": HEADS, "num_kv_heads": KV_HEADS, "head_size": SIZE, "sliding_window_size": -1,
    "attention_scale": 0.4, "rms_norm_eps": 1e-3, "enable_qk_norm": 0, "qk_norm_post_rope": 0,
    "enable_attention_sink": 0, "enable_tree_attention": 0, "enable_fp8_kv_cache": 0, "enable_context_mask_selector": 0,
    "enable_vision_block_attention": 0, "enable_kv_shared": 0, "enable_contiguous_query_swa": 0, "plugin_version": "1",
    "qkv_scales": [0.5, 0.007, 0.003],
}  # fmt: skip
AFTER = ["query_start_offsets", "attention_sequence_lengths", "phase", "carrier"]


def _session(attributes):
    names = ["qkv", "pool", "query_lengths", "rope", "past_lengths", "table"]
    names += ["q_gamma", "k_gamma"] if attributes["enable_qk_norm"] else []
    names += ["sinks"] if attributes["enable_attention_sink"] else []
    node = helper.make_node(
        "AttentionPlugin", [*names, *AFTER], ["attended", "present"], domain="trt_edgellm", **attributes
    )
    kinds = {"qkv": (10, 2), "pool": (10, 5), "rope": (1, 2), "table": (6, 3), "sinks": (1, 1)}
    kinds |= {"q_gamma": (10, 1), "k_gamma": (10, 1)} | ({"pool": (17, 5)} if attributes["enable_fp8_kv_cache"] else {})
    inputs = [
        helper.make_tensor_value_info(name, kind, [None] * rank)
        for name, (kind, rank) in ((name, kinds.get(name, (6, 1))) for name in [*names, *AFTER])
    ]
    outputs = [
        helper.make_tensor_value_info("attended", 10, None),
        helper.make_tensor_value_info("present", kinds["pool"][0], None),
    ]
    graph = helper.make_graph([node], "one", inputs, outputs)
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("trt_edgellm", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=11)
    add_functions(model)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def _run(session, feeds):
    """Run one step; return what is attended to, and the pool, in fp8 as its bits."""
    kinds = {value.name: value.type for value in session.get_inputs()}
    values = {name: state_value(np.ascontiguousarray(array), kinds[name]) for name, array in feeds.items()}
    return [value.numpy() for value in session.run_with_ort_values(["attended", "present"], values)]


def _stored(x, scale):
    """What a cache in fp8 keeps of float16 numbers, multiplied out."""
    narrow = x.astype(np.float16).astype(np.float32) / np.float32(scale)
    return narrow.clip(-448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * np.float32(scale)


def _norm(x, gamma):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-3) * gamma


def _rotate(x, position):
    angle = position * np.array([1.0, 0.1])
    first, second = x[:2], x[2:4]
    turned = first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)
    return np.concatenate([*turned, x[4:]])


def _wanted(tokens, attributes, gammas, sinks):
    """Attention of one whole sequence ``[length, (heads + 2 kv_heads) * size]``."""
    heads = tokens.reshape(len(tokens), -1, SIZE).astype(np.float64)
    prepared = np.zeros((len(tokens), HEADS + KV_HEADS, SIZE))
    for position, token in enumerate(heads):
        for head in range(HEADS + KV_HEADS):
            x, gamma = token[head], gammas[0] if head < HEADS else gammas[1]
            if attributes["enable_qk_norm"] and not attributes["qk_norm_post_rope"]:
                x = _norm(x, gamma)
            x = _rotate(x, position)
            if attributes["enable_qk_norm"] and attributes["qk_norm_post_rope"]:
                x = _norm(x, gamma)
            prepared[position, head] = x
    values = heads[:, HEADS + KV_HEADS :]
    if attributes["enable_fp8_kv_cache"]:
        _, key_scale, value_scale = attributes["qkv_scales"]
        prepared[:, HEADS:], values = _stored(prepared[:, HEADS:], key_scale), _stored(values, value_scale)
    result = np.zeros((len(tokens), HEADS, SIZE))
    window = attributes["sliding_window_size"]
    for position in range(len(tokens)):
        first = 0 if window < 0 else max(0, position + 1 - window)
        for head in range(HEADS):
            group = head // (HEADS // KV_HEADS)
            keys = prepared[first : position + 1, HEADS + group]
            logits = keys @ prepared[position, head] * attributes["attention_scale"]
            extra = [sinks[head]] if attributes["enable_attention_sink"] else []
            weights = np.exp(np.append(logits, extra) - np.append(logits, extra).max())
            weights = (weights / weights.sum())[: len(logits)]
            result[position, head] = weights @ values[first : position + 1, group]
    return result


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sliding_window_size": 3},
        {"enable_qk_norm": 1},
        {"enable_qk_norm": 1, "qk_norm_post_rope": 1, "sliding_window_size": 130},
        {"enable_attention_sink": 1},
        {"enable_attention_sink": 1, "enable_qk_norm": 1},
        {"enable_fp8_kv_cache": 1},
        {"enable_fp8_kv_cache": 1, "enable_qk_norm": 1, "sliding_window_size": 130},
    ],
    ids=str,
)
def test_ragged_steps_over_scattered_pages(changes):
    attributes = {**ATTRIBUTES, **changes}
    random = np.random.default_rng(3)
    lengths = [140, 5, 20]
    sequences = [random.normal(size=(n, (HEADS + 2 * KV_HEADS) * SIZE)).astype(np.float16) for n in lengths]
    gammas = random.normal(1, 0.3, (2, SIZE)).astype(np.float16)
    sinks = random.normal(size=HEADS).astype(np.float32)
    wanted = [_wanted(one, attributes, gammas.astype(np.float64), sinks) for one in sequences]
    fp8 = attributes["enable_fp8_kv_cache"]
    pool = np.full((2, 6, 128, KV_HEADS, SIZE), 0x7E if fp8 else 60.0, np.uint8 if fp8 else np.float16)
    table = np.array([[[4, 1], [7, 11]], [[0, 0], [8, 6]], [[5, 0], [10, 6]]], np.int32)
    session = _session(attributes)
    done = [0, 0, 0]
    for step in ([130, 0, 7], [9, 3, 7], [0, 1, 5], [1, 1, 1]):
        active = [index for index, count in enumerate(step) if count]
        counts, past = np.array([step[i] for i in active]), np.array([done[i] for i in active])
        positions = np.concatenate([np.arange(p, p + n) for p, n in zip(past, counts, strict=True)])
        angles = positions[:, None] * np.array([1.0, 0.1])
        feeds = {
            "qkv": np.concatenate([sequences[i][done[i] : done[i] + step[i]] for i in active]),
            "pool": pool,
            "query_lengths": counts.astype(np.int32),
            "rope": np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32),
            "past_lengths": past.astype(np.int32),
            "table": table[active],
            "query_start_offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
            "attention_sequence_lengths": (past + counts).astype(np.int32),
            "phase": np.zeros(2, np.int32),
            "carrier": np.zeros(len(active), np.int32),
            **({"q_gamma": gammas[0], "k_gamma": gammas[1]} if attributes["enable_qk_norm"] else {}),
            **({"sinks": sinks} if attributes["enable_attention_sink"] else {}),
        }
        attended, pool = _run(session, feeds)
        parts = np.split(attended, np.cumsum(counts)[:-1])
        for index, part in zip(active, parts, strict=True):
            expected = wanted[index][done[index] : done[index] + step[index]]
            np.testing.assert_allclose(part.astype(np.float64), expected, atol=2e-2)
            done[index] += step[index]
    assert done == [140, 5, 20]


@pytest.mark.parametrize("flag", ["enable_tree_attention", "enable_kv_shared"])
def test_what_has_no_reference_is_refused(flag):
    with pytest.raises(PluginAttributeError, match=flag):
        _session({**ATTRIBUTES, flag: 1})


def test_equal_nodes_share_a_function():
    node = helper.make_node("AttentionPlugin", [], ["a", "b"], domain="trt_edgellm", **ATTRIBUTES)
    other = helper.make_node("AttentionPlugin", [], ["c", "d"], domain="trt_edgellm", **ATTRIBUTES)
    model = onnx.ModelProto(graph=onnx.GraphProto(node=[node, other]))
    add_functions(model)
    assert len(model.functions) == 1
    assert {one.op_type for one in model.graph.node} == {"AttentionPlugin_0"}
