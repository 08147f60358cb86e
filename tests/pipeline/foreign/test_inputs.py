"""Sizes and random inputs for graphs that nobody has described."""

from __future__ import annotations

import re

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgellm_core.errors import InvalidSettingError, UnknownNameError
from edgellm_core.pipeline.foreign.random_inputs import index_limits, random_inputs
from edgellm_core.pipeline.foreign.sizes import evaluate, size_cases, symbols_of, terms


def value(name, shape, dtype=TensorProto.INT64):
    return helper.make_tensor_value_info(name, dtype, shape)


def test_symbols_come_in_order_and_sums_count_as_their_parts():
    values = [
        value("ids", ["batch", "seq"]),
        value("mask", ["batch", "past + seq"]),
        value("past", ["batch", 2, "past", None]),
    ]
    assert symbols_of(values) == ["batch", "seq", "past", "past.3"]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("seq", 7), ("past + seq", 12), ("past+seq", 12), ("seq + 1", 8), ("seq - 2", 5), ("1 - seq", 0), (4, 4),
        ("past.3", 9), ("2*seq", 11),
    ],
)  # fmt: skip
def test_a_dimension_is_a_sum(expression, expected):
    assert evaluate(expression, {"seq": 7, "past": 5, "past.3": 9, "2*seq": 11}) == expected


def test_what_is_no_sum_is_one_symbol():
    assert terms("2*seq") == [(1, "2*seq")]
    assert terms("past - 1") == [(1, "past"), (-1, "1")]


def test_cases_differ_and_given_sizes_hold_in_all_of_them():
    values = [value("x", ["batch", "seq"])]
    cases = size_cases(values, {"seq": 9})
    assert [attempt["batch"] for attempt, _ in cases] == [2, 1, 3]
    assert {attempt["seq"] for attempts in cases for attempt in attempts} == {9}
    assert size_cases([value("x", ["batch"])], {"batch": 4}) == [[{"batch": 4}] * 2]
    assert size_cases([value("x", [2])], {}) == [[{}, {}]]


def test_symbols_of_a_decoder_fit_one_another_first():
    values = [value("input_ids", ["s0", "s1"]), value("attention_mask", ["s2", "s3"]), value("key", ["s4", 2, "s5", 8])]
    for first, second in size_cases(values, {}):
        assert first["s0"] == first["s2"] == first["s4"]
        assert first["s3"] == first["s1"] + first["s5"]
        assert set(second) == set(first)


def test_wrong_sizes():
    with pytest.raises(UnknownNameError, match=re.escape("Unknown dimension 'sek'. Did you mean 'seq'?")):
        size_cases([value("x", ["seq"])], {"sek": 1})
    with pytest.raises(InvalidSettingError, match="--dim must be 0 or more; got seq=-1"):
        size_cases([value("x", ["seq"])], {"seq": -1})


def test_ids_stay_below_the_rows_of_every_table_that_they_index():
    nodes = [
        helper.make_node("Gather", ["words", "ids"], ["a"]),
        helper.make_node("Cast", ["kinds"], ["wide"], to=TensorProto.INT64),
        helper.make_node("Unsqueeze", ["wide", "axis"], ["more"]),
        helper.make_node("Gather", ["types", "more"], ["b"]),
        helper.make_node("Gather", ["small", "ids"], ["c"], axis=1),
    ]
    table = numpy_helper.from_array(np.zeros((3, 2), np.float32), "words")
    values = [value("ids", [40, 50]), value("kinds", [40], TensorProto.INT32), value("free", [40])]
    model = helper.make_model(helper.make_graph(nodes, "g", values, [value("a", None)], [table]))
    limits = index_limits(model, {"words": [61, 8], "types": [5, 8], "small": [8, 17]})
    assert limits == {"ids": 17, "kinds": 5}
    inputs = random_inputs(values, {}, limits, 0)
    assert (inputs["ids"].min(), inputs["ids"].max()) == (0, 16)
    assert (inputs["kinds"].min(), inputs["kinds"].max(), inputs["kinds"].dtype) == (0, 4, np.int32)
    assert set(np.unique(inputs["free"])) == {0, 1}


def test_masks_positions_flags_and_floats():
    values = [
        value("attention_mask", ["b", 4]), value("position_ids", ["b", 4]), value("flag", ["b", 40], TensorProto.BOOL),
        value("past", ["b", 2, 0, 8], TensorProto.FLOAT16), value("x", [], TensorProto.FLOAT),
    ]  # fmt: skip
    first, last = (random_inputs(values, {"b": 2}, {}, seed) for seed in (0, 2))
    assert first["attention_mask"].tolist() == [[1, 1, 1, 1]] * 2
    assert last["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 0, 1, 1]]
    assert first["position_ids"].tolist() == [[0, 1, 2, 3]] * 2
    assert set(np.unique(first["flag"])) == {False, True}
    assert (first["past"].shape, first["past"].dtype, first["x"].shape) == ((2, 2, 0, 8), np.float16, ())
    assert first["x"] != last["x"]
