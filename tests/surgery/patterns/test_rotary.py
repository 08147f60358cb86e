"""Rotary embeddings as exporters write them."""

from __future__ import annotations

import numpy as np
import pytest
from pattern_graphs import assert_same, graph, numbers, rewritten

from edgellm_core.surgery.patterns.rotary import PlainRotary

ANGLES = np.outer(np.arange(5), 1 / 100 ** (np.arange(4) / 4)).astype(np.float32)
TABLE = np.concatenate([ANGLES, ANGLES], -1)
UNEQUAL = TABLE * np.linspace(1, 2, 8, dtype=np.float32)
INTS = {
    "n0": 0, "n4": 4, "n3": 3, "n5": 5, "n8": 8, "end": np.iinfo(np.int64).max, "a3": 3, "am1": -1, "u1": 1, "step": 1
}  # fmt: skip
CONSTANTS = {name: np.array([value]) for name, value in INTS.items()} | {
    "cos_table": np.cos(TABLE), "sin_table": np.sin(TABLE), "sizes": np.array([4, 4]), "uneven": np.array([3, 5]),
}  # fmt: skip
TURN = """
    lower = Slice(x, n0, n4, a3, step)
    upper = Slice(x, n4, end, a3, step)
    negative = Neg(upper)
    turned = Concat(negative, lower) axis=-1
    straight = Mul(x, cos)
    crossed = Mul(turned, sin)
    y = Add(straight, crossed)
"""
COMPUTED = """
    full = Concat(angles, angles) axis=-1
    c = Cos(full)
    s = Sin(full)
    cos = Unsqueeze(c, u1)
    sin = Unsqueeze(s, u1)
"""
SPLIT = TURN.replace("lower = Slice(x, n0, n4, a3, step)", "lower, upper = Split(x, sizes) axis=3").replace(
    "upper = Slice(x, n4, end, a3, step)", ""
)


def rotation(text, batch=1, outputs=None, **changes):
    inputs = {"x": (np.float32, ("batch", 3, 5, 8)), "angles": (np.float32, (batch, 5, 4))}
    return graph(text, inputs, {"y": np.float32, **(outputs or {})}, CONSTANTS | changes)


def reference(x, angles):
    table = np.concatenate([angles, angles], -1).astype(np.float64)[:, None]
    turned = np.concatenate([-x[..., 4:], x[..., :4]], -1).astype(np.float64)
    return x * np.cos(table) + turned * np.sin(table)


@pytest.mark.parametrize("batch", [1, "batch"])
@pytest.mark.parametrize("text", [COMPUTED + TURN, COMPUTED + SPLIT], ids=["slices", "split"])
def test_a_rotation_becomes_one_node_with_tables_of_half_the_channels(text, batch):
    model = rotation(text, batch)
    changed, operators, [result] = rewritten(model, PlainRotary())
    assert result.applied == 1
    assert operators.count("RotaryEmbedding") == 1
    assert not {"Neg", "Mul", "Add", "Split"} & set(operators)
    assert operators.count("Expand") == (2 if batch == 1 else 0)
    angles = np.repeat(ANGLES[None], 1 if batch == 1 else 2, 0) * np.arange(1, 2 if batch == 1 else 3)[:, None, None]
    angles = angles.astype(np.float32)
    x = numbers(2, 3, 5, 8)
    assert_same(model, changed, reference(x, angles), x=x, angles=angles)


def test_a_constant_table_serves_where_its_halves_are_equal():
    text = TURN.replace("cos)", "cos_table)").replace("sin)", "sin_table)")
    model = graph(text, {"x": (np.float32, (2, 3, 5, 8))}, {"y": np.float32}, CONSTANTS)
    changed, operators, _ = rewritten(model, PlainRotary())
    assert operators.count("RotaryEmbedding") == 1
    x = numbers(2, 3, 5, 8)
    assert_same(model, changed, reference(x, ANGLES[None]), x=x)


PAIRS = """
    even = Slice(x, n0, end, a3, n2)
    odd = Slice(x, u1, end, a3, n2)
    negative = Neg(odd)
    first = Unsqueeze(negative, am1)
    second = Unsqueeze(even, am1)
    stack = Concat(first, second) axis=-1
    turned = Reshape(stack, channels)
    straight = Mul(x, cos)
    crossed = Mul(turned, sin)
    y = Add(straight, crossed)
"""
REPEATED = """
    column = Unsqueeze(angles, am1)
    twice = Expand(column, two)
    full = Reshape(twice, row)
    c = Cos(full)
    s = Sin(full)
    cos = Unsqueeze(c, u1)
    sin = Unsqueeze(s, u1)
"""
STACKED = REPEATED.replace("twice = Expand(column, two)", "twice = Concat(column, column) axis=-1")
OF_PAIRS = {
    "n2": np.array([2]), "channels": np.array([0, 0, 0, 8]), "row": np.array([0, 0, 8]), "two": np.array([1, 1, 1, 2]),
}  # fmt: skip


def reference_of_pairs(x, angles):
    table = np.repeat(angles, 2, -1).astype(np.float64)[:, None]
    turned = np.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape).astype(np.float64)
    return x * np.cos(table) + turned * np.sin(table)


@pytest.mark.parametrize("tables", [REPEATED, STACKED], ids=["expand", "concat"])
def test_neighbouring_channels_as_pairs(tables):
    model = rotation(tables + PAIRS, "batch", **OF_PAIRS)
    changed, operators, [result] = rewritten(model, PlainRotary())
    assert result.applied == 1
    assert operators.count("RotaryEmbedding") == 1
    assert not {"Neg", "Mul", "Add"} & set(operators)
    x, angles = numbers(2, 3, 5, 8), np.stack([ANGLES, 2 * ANGLES])
    assert_same(model, changed, reference_of_pairs(x, angles), x=x, angles=angles)


@pytest.mark.parametrize(
    "text",
    [
        COMPUTED + PAIRS,  # pairs of neighbours with tables of halves
        REPEATED + TURN,
        REPEATED + PAIRS.replace("Slice(x, u1, end", "Slice(x, n0, end"),
        REPEATED + PAIRS.replace("Concat(first, second)", "Concat(second, first)"),
    ],
)
def test_mixed_pairs_are_no_rotations(text):
    _, operators, [result] = rewritten(rotation(text, "batch", **OF_PAIRS), PlainRotary())
    assert (result.applied, "RotaryEmbedding" in operators) == (0, False)


def test_a_rotation_in_a_wider_type():
    text = COMPUTED + TURN.replace("straight = Mul(x, cos)", "wide = Cast(x) to=1\n straight = Mul(wide, cos)").replace(
        "crossed = Mul(turned, sin)", "wider = Cast(turned) to=1\n crossed = Mul(wider, sin)"
    )
    inputs = {"x": (np.float16, ("batch", 3, 5, 8)), "angles": (np.float32, ("batch", 5, 4))}
    model = graph(text, inputs, {"y": np.float32}, CONSTANTS)
    changed, operators, _ = rewritten(model, PlainRotary())
    assert {op: operators.count(op) for op in ("RotaryEmbedding", "Cast", "Mul")} == {
        "RotaryEmbedding": 1, "Cast": 1, "Mul": 0
    }  # fmt: skip
    x = numbers(2, 3, 5, 8, dtype=np.float16)
    assert_same(model, changed, reference(x.astype(np.float32), ANGLES[None]), x=x, angles=np.stack([ANGLES, ANGLES]))


def test_layers_share_the_tables():
    second = TURN.replace("x", "y1").replace("y =", "z =")
    for name in ("lower", "upper", "negative", "turned", "straight", "crossed"):
        second = second.replace(name, f"{name}2")
    second = second.replace("ay1is", "axis")
    model = rotation(COMPUTED + TURN + "y1 = Tanh(y)" + second, outputs={"z": np.float32})
    _, operators, [result] = rewritten(model, PlainRotary())
    assert result.applied == 2
    assert operators.count("Slice") == operators.count("Expand") == 2


@pytest.mark.parametrize(
    ("text", "changes", "reason"),
    [
        (COMPUTED + TURN.replace("n4, a3", "n3, a3"), {}, "it does not turn the first half of the channels"),
        (COMPUTED + SPLIT.replace("sizes", "uneven"), {}, "it does not turn the first half of the channels"),
        (TURN.replace("cos)", "cos_table)").replace("sin)", "sin_table)"), {"cos_table": UNEQUAL}, "the two halves"),
        (COMPUTED + TURN, {"outputs": {"turned": np.float32}}, "its inner value 'turned' has a second consumer"),
        (COMPUTED + TURN, {"batch": 2}, "is not known to be for the same batch"),
        (COMPUTED.replace("angles, angles", "angles, more") .replace("full", "more = Neg(angles)\n full", 1) + TURN, {},
         "the two halves"),
    ],
)  # fmt: skip
def test_near_misses_stay_as_they_are(text, changes, reason):
    model = rotation(text, **changes)
    _, operators, [result] = rewritten(model, PlainRotary())
    assert (result.applied, "RotaryEmbedding" in operators) == (0, False)
    assert reason in result.near_misses[0].reason


@pytest.mark.parametrize(
    "text",
    [
        TURN.replace("negative = Neg(upper)", "negative = Abs(upper)"),
        TURN.replace("Concat(negative, lower)", "Concat(lower, negative)"),
        TURN.replace("Mul(x, cos)", "Mul(turned, cos)"),
        TURN.replace("Neg(upper)", "Neg(lower)").replace("negative, lower", "negative, upper"),
    ],
)
def test_other_formulas_are_no_rotations(text):
    _, operators, [result] = rewritten(rotation(COMPUTED + text), PlainRotary())
    assert (result.applied, "RotaryEmbedding" in operators) == (0, False)
