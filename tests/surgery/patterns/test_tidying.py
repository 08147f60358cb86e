"""What changes nothing in a foreign graph."""

from __future__ import annotations

import numpy as np
import pytest
from pattern_graphs import graph, numbers, rewritten
from small_graphs import execute

from edgellm_core.surgery.patterns import tidying_rules

CONSTANTS = {
    "same": np.array([2, 3, 4]), "other": np.array([4, 6]), "two": np.array([2]), "axis": np.array([0]),
    "minus": np.array([-1]), "one": np.int64(1), "filled": np.array([3]), "step": np.int64(2), "end": np.int64(9),
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = Reshape(x, same)\n y = Neg(a)", ["Neg"]),
        ("a = Expand(x, same)\n y = Neg(a)", ["Neg"]),
        ("a = Reshape(x, other)\n y = Neg(a)", ["Reshape", "Neg"]),
        ("a = Concat(x) axis=1\n y = Neg(a)", ["Neg"]),
        ("a = Cast(x) to=11\n b = Cast(a) to=1\n y = Neg(b)", ["Neg"]),
        ("a = Cast(x) to=10\n b = Cast(a) to=1\n y = Neg(b)", ["Cast", "Cast", "Neg"]),
        ("a = Transpose(x) perm=[1,2,0]\n b = Transpose(a) perm=[2,0,1]\n y = Neg(b)", ["Neg"]),
        ("a = Transpose(x) perm=[1,2,0]\n b = Transpose(a) perm=[1,0,2]\n y = Neg(b)", ["Transpose", "Neg"]),
        ("s = Shape(x)\n g = Gather(s, one)\n u = Unsqueeze(g, axis)\n c = Concat(u, minus) axis=0\n y = Reshape(x, c)",
         ["Reshape"]),
        ("r = Range(one, end, step)\n f = Cast(r) to=1\n a = Mul(f, f)\n n = ReduceSum(a)\n y = Add(x, n)",
         ["ReduceSum", "Add"]),
    ],
)  # fmt: skip
def test_what_is_left(text, expected):
    model = graph(text, {"x": (np.float32, (2, 3, 4))}, {"y": np.float32}, CONSTANTS)
    changed, operators, _ = rewritten(model, *tidying_rules(), *tidying_rules(), *tidying_rules())
    assert operators == expected
    x = numbers(2, 3, 4)
    np.testing.assert_array_equal(execute(changed, x=x)[0], execute(model, x=x)[0])


def test_a_dynamic_shape_stays():
    model = graph("s = Shape(x)\n y = Reshape(x, s)", {"x": (np.float32, ("batch", 4))}, {"y": np.float32}, CONSTANTS)
    _, operators, _ = rewritten(model, *tidying_rules())
    assert operators == ["Shape", "Reshape"]


FLAT = """
    shape = Shape(x)
    last = Slice(shape, minus, huge)
    before = Slice(shape, minus2, minus)
    batch = Slice(shape, lowest, minus2)
    s3 = Concat(minus, before, last) axis=0
    flat = Reshape(x, s3)
    turned = Transpose(flat) perm=[0,2,1]
    s4 = Concat(batch, last, before) axis=0
    back = Reshape(turned, s4)
    y = Neg(back)
"""
BOUNDS = {"huge": np.array([2**63 - 1]), "lowest": np.array([-(2**63)]), "minus2": np.array([-2])}


def test_a_transposition_for_any_number_of_dimensions():
    model = graph(FLAT, {"x": (np.float32, ("batch", 2, "seq", 4))}, {"y": np.float32}, CONSTANTS | BOUNDS)
    changed, operators, _ = rewritten(model, *tidying_rules(), *tidying_rules())
    assert operators == ["Transpose", "Neg"]
    x = numbers(3, 2, 5, 4)
    np.testing.assert_array_equal(execute(changed, x=x)[0], -x.swapaxes(-1, -2))


@pytest.mark.parametrize(
    ("old", "new"), [("batch, last, before", "batch, before, last"), ("perm=[0,2,1]", "perm=[1,0,2]")]
)
def test_another_order_is_no_transposition(old, new):
    text = FLAT.replace(old, new)
    model = graph(text, {"x": (np.float32, ("batch", 2, "seq", 4))}, {"y": np.float32}, CONSTANTS | BOUNDS)
    _, operators, _ = rewritten(model, *tidying_rules(), *tidying_rules())
    assert operators.count("Reshape") == 2
