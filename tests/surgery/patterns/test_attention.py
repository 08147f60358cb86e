"""Attention as exporters write it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from pattern_graphs import assert_same, graph, numbers, rewritten

from edgellm_core.surgery.patterns.attention import PlainAttention

LOWEST = np.finfo(np.float32).min
CONSTANTS = {
    "scale": np.float32(0.35), "divisor": np.float32(1 / 0.35), "root": np.float32(0.35**0.5), "zero": np.float32(0),
    "lowest": np.float32(LOWEST), "infinite": np.float32(-np.inf), "minus": np.float32(-0.35), "axis": np.array([2]),
    "spread": np.array([2, 2, 3, 6, 8]), "merged": np.array([2, 6, 6, 8]), "swapped": np.array([2, 6, 8, 6]),
}  # fmt: skip
CORE = """
    kt = Transpose(k) perm=[0,1,3,2]
    product = MatMul(q, kt)
    scaled = Mul(product, scale)
    logits = Add(scaled, mask)
    p = Softmax(logits) axis=-1
    y = MatMul(p, v)
"""
REPEAT = """
    k5 = Unsqueeze(kn, axis)
    ke = Expand(k5, spread)
    k = Reshape(ke, merged)
    v5 = Unsqueeze(vn, axis)
    ve = Expand(v5, spread)
    v = Reshape(ve, merged)
"""
CAPPED = CORE.replace("scaled = Mul(product", "capped = Tanh(product)\n scaled = Mul(capped")


def tensors(heads=6, batch=2):
    names = ("kn", "vn") if heads != 6 else ("k", "v")
    shapes = {"q": (batch, 6, 5, 8), **dict.fromkeys(names, (batch, heads, 6, 8))}
    return {name: numbers(*shape, seed=index) for index, (name, shape) in enumerate(shapes.items())}


def attention(text, heads=6, mask=None, outputs=None, **changes):
    inputs = {name: (value.dtype, value.shape) for name, value in tensors(heads).items()}
    if mask is not None:
        inputs["mask"] = (mask.dtype, mask.shape)
    return graph(text, inputs, {"y": np.float32, **(outputs or {})}, CONSTANTS | changes)


def reference(q, k, v, mask=0.0, scale=0.35):
    times = q.shape[1] // k.shape[1]
    k, v = (np.repeat(tensor.astype(np.float64), times, 1) for tensor in (k, v))
    logits = q @ k.swapaxes(-1, -2) * scale + mask
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


FORMS = {
    "multiplied": CORE,
    "divided": CORE.replace("Mul(product, scale)", "Div(product, divisor)"),
    "mask first": CORE.replace("(scaled, mask)", "(mask, scaled)"),
    "query scaled": "qs = Mul(q, scale)"
    + CORE.replace("MatMul(q", "MatMul(qs").replace("(product, scale)", "(product, one)"),
    "both scaled": "qs = Mul(q, root)"
    + CORE.replace("MatMul(q, kt)", "MatMul(qs, ks)")
    .replace("product =", "ks = Mul(kt, root)\n product =")
    .replace("scaled = Mul(product, scale)", "")
    .replace("scaled", "product"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(2, 1, 5, 6), (1, 1, 5, 6), (2, 6, 5, 6), (5, 6), (2, 1, 1, 6)], ids=str)
def test_every_form_and_mask_becomes_one_node(form, shape):
    mask = numbers(*shape, seed=5)
    model = attention(FORMS[form], mask=mask, one=np.float32(1))
    changed, operators, [result] = rewritten(model, PlainAttention())
    assert (result.applied, operators.count("Attention")) == (1, 1)
    assert not {"Softmax", "MatMul", "Transpose"} & set(operators)
    feeds = tensors()
    assert_same(model, changed, reference(*feeds.values(), mask), **feeds, mask=mask)


def test_keys_and_values_are_taken_before_they_are_repeated():
    mask = numbers(2, 1, 5, 6, seed=5)
    model = attention(REPEAT + CORE, heads=2, mask=mask)
    changed, operators, _ = rewritten(model, PlainAttention())
    assert operators == ["Max", "Attention"]
    assert list(changed.graph.node[1].input) == ["q", "kn", "vn", "mask.finite"]
    feeds = tensors(2)
    assert_same(model, changed, reference(*feeds.values(), mask), **feeds, mask=mask)


def test_one_key_head_serves_all_query_heads():
    text = CORE.replace("(k)", "(kn)").replace(", v)", ", vn)")
    model = attention(text.replace("logits = Add(scaled, mask)", "").replace("(logits)", "(scaled)"), heads=1)
    changed, operators, _ = rewritten(model, PlainAttention())
    assert operators == ["Attention"]
    feeds = tensors(1)
    assert_same(model, changed, reference(*feeds.values()), **feeds)


def test_keys_that_one_transposition_turns_twice():
    text = CORE.replace("Transpose(k) perm=[0,1,3,2]", "Transpose(k) perm=[0,2,3,1]")
    feeds = {"q": numbers(2, 6, 5, 8), "k": numbers(2, 6, 6, 8, seed=1), "v": numbers(2, 6, 6, 8, seed=2)}
    mask = numbers(5, 6)
    model = attention(text, mask=mask)
    changed, operators, _ = rewritten(model, PlainAttention())
    assert sorted(operators) == ["Attention", "Max", "Transpose"]
    assert_same(model, changed, reference(feeds["q"], feeds["k"].swapaxes(1, 2), feeds["v"], mask), **feeds, mask=mask)


CONDITION = np.arange(6)[None] <= np.arange(5)[:, None] + 1


@pytest.mark.parametrize("number", ["lowest", "infinite"])
@pytest.mark.parametrize("hides", [False, True])
def test_a_condition_becomes_an_additive_mask(number, hides):
    order = f"{number}, scaled" if hides else f"scaled, {number}"
    model = attention(CORE.replace("Add(scaled, mask)", f"Where(mask, {order})"), mask=CONDITION)
    changed, operators, _ = rewritten(model, PlainAttention())
    assert operators == ["Where", "Max", "Attention"]
    feeds, mask = tensors(), CONDITION ^ hides
    expected = reference(*feeds.values(), np.where(CONDITION, 0, -np.inf))
    assert_same(model, changed, expected, **feeds, mask=mask)


@pytest.mark.parametrize("number", ["lowest", "infinite"])
def test_a_guard_against_rows_without_keys(number):
    text = "mask = Where(allowed, zero, number)".replace("number", number) + CORE.replace(
        "y = MatMul(p, v)", "bad = IsNaN(p)\n safe = Where(bad, zero, p)\n y = MatMul(safe, v)"
    )
    allowed = np.broadcast_to(CONDITION, (2, 1, 5, 6)).copy()
    allowed[1, 0, 3] = False
    inputs = {name: (value.dtype, value.shape) for name, value in tensors().items()} | {
        "allowed": (bool, allowed.shape)
    }
    model = graph(text, inputs, {"y": np.float32}, CONSTANTS)
    changed, operators, _ = rewritten(model, PlainAttention())
    assert operators.count("Attention") == 1
    assert "IsNaN" not in operators
    feeds = tensors()
    hidden = -np.inf if number == "infinite" else LOWEST
    with np.errstate(invalid="ignore"):
        expected = reference(*feeds.values(), np.where(allowed, 0, np.float64(hidden)))
    if number == "infinite":
        assert np.isnan(expected[1, :, 3]).all()
        expected[1, :, 3] = 0
    else:
        expected[1, :, 3] = feeds["v"][1].mean(1)  # equal weights, as softmax gives them
    assert_same(model, changed, expected, **feeds, allowed=allowed)


WIDE = """
    kt = Transpose(k) perm=[0,1,3,2]
    product = MatMul(q, kt)
    scaled = Mul(product, scale)
    wide = Cast(scaled) to=1
    mask = Where(allowed, zero, number)
    logits = Add(wide, mask)
    p = Softmax(logits) axis=-1
    bad = IsNaN(p)
    safe = Where(bad, zero, p)
    vw = Cast(v) to=1
    y = MatMul(safe, vw)
"""


@pytest.mark.parametrize("number", ["lowest", "infinite"])
@pytest.mark.parametrize("heads", [1, 6])
def test_attention_in_a_wider_type_is_written_in_that_of_its_queries(number, heads):
    allowed = np.broadcast_to(CONDITION, (2, heads, 5, 6)).copy()
    allowed[1, :, 3] = number != "infinite"
    feeds = {name: value.astype(np.float16) for name, value in tensors().items()}
    inputs = {name: (value.dtype, value.shape) for name, value in feeds.items()} | {"allowed": (bool, allowed.shape)}
    constants = CONSTANTS | {"scale": np.float16(0.35)}
    model = graph(WIDE.replace("number", number), inputs, {"y": np.float32}, constants)
    changed, operators, _ = rewritten(model, PlainAttention())
    assert (operators.count("Attention"), operators[-1], operators.count("Softmax")) == (1, "Cast", 0)
    with np.errstate(invalid="ignore"):
        expected = reference(*feeds.values(), np.where(allowed, 0, -np.inf), float(np.float16(0.35)))
    expected[np.isnan(expected)] = 0
    assert_same(model, changed, expected, tolerance=3e-3, **feeds, allowed=allowed)


def test_queries_and_values_of_different_types_are_left_alone():
    model = attention(
        CORE.replace("y = MatMul(p, v)", "half = Cast(p) to=10\n y = MatMul(half, vh)"), mask=numbers(5, 6)
    )
    value = model.graph.input.add()
    value.CopyFrom(onnx.helper.make_tensor_value_info("vh", onnx.TensorProto.FLOAT16, (2, 6, 6, 8)))
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    _, operators, [result] = rewritten(model, PlainAttention())
    assert "Attention" not in operators
    assert "are not known to have the same element type" in result.near_misses[0].reason


@pytest.mark.parametrize(
    ("text", "heads", "changes", "reason"),
    [
        (CORE, 6, {"outputs": {"p": np.float32}}, "its inner value 'p' has a second consumer"),
        (CORE + "z = Neg(scaled)", 6, {"outputs": {"z": np.float32}}, "its inner value 'scaled' has a second consumer"),
        (CORE.replace("axis=-1", "axis=1"), 6, {}, "its softmax is not over the last axis"),
        (CORE.replace("(product, scale)", "(product, minus)"), 6, {}, "its scale is -0.35"),
        (CAPPED, 6, {}, "its logits are capped by tanh"),
    ],
)  # fmt: skip
def test_near_misses_stay_as_they_are(text, heads, changes, reason):
    _, operators, [result] = rewritten(attention(text, heads, numbers(5, 6), **changes), PlainAttention())
    assert (result.applied, "Attention" in operators) == (0, False)
    assert reason in result.near_misses[0].reason


def test_heads_that_are_repeated_in_another_order_are_taken_after_it():
    tiled = REPEAT.replace("axis)", "first)")
    model = attention(tiled + CORE, heads=2, mask=numbers(5, 6), first=np.array([1]), spread=np.array([2, 3, 2, 6, 8]))
    changed, operators, _ = rewritten(model, PlainAttention())
    assert operators.count("Expand") == 2
    feeds = tensors(2)
    repeated = [np.tile(feeds[name], (1, 3, 1, 1)) for name in ("kn", "vn")]
    mask = numbers(5, 6)
    assert_same(model, changed, reference(feeds["q"], *repeated, mask), **feeds, mask=mask)


def test_unknown_shapes_are_named():
    inputs = dict.fromkeys(("q", "k", "v"), (np.float32, None))
    text = CORE.replace("logits = Add(scaled, mask)", "").replace("(logits)", "(scaled)")
    _, _, [result] = rewritten(graph(text, inputs, {"y": np.float32}, CONSTANTS), PlainAttention())
    assert "is not known to have 4 dimensions" in result.near_miss.reason


def test_the_scale_is_the_product_of_all_factors():
    model = attention(FORMS["both scaled"], mask=numbers(5, 6))
    changed, _, _ = rewritten(model, PlainAttention())
    node = next(node for node in changed.graph.node if node.op_type == "Attention")
    assert onnx.helper.get_node_attr_value(node, "scale") == pytest.approx(0.35)
