"""JSON from outside: every text gives a value that can be used, or one error."""

from __future__ import annotations

import copy
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm_core.errors import shown
from edgellm_core.untrusted import CorruptJsonError, parse_json, read_json_object
from edgellm_core.untrusted.limits import DEPTH, DIGITS

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
)


@given(VALUES)
def test_values_are_those_of_the_standard_library(value):
    assert parse_json(json.dumps(value), "x") == value


@given(st.text(alphabet='[]{}",:0123456789eE+-. \\truefalsn\ud800', max_size=60))
def test_any_text_is_a_value_or_one_error(text):
    try:
        value = parse_json(text, "x")
    except CorruptJsonError:
        return
    shown(copy.deepcopy(value))


@pytest.mark.parametrize("deep", [DEPTH.most + 1, 900, 200_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[1,{"a":', "}]")])
def test_deep_nesting_is_refused(deep, opening, closing):
    with pytest.raises(CorruptJsonError, match=f"'x': nested too deeply, in more than {DEPTH.most} levels"):
        parse_json(opening * deep + "1" + closing * deep, "x")


def test_the_deepest_nesting_is_read():
    assert parse_json("[" * DEPTH.most + "]" * DEPTH.most, "x")


@pytest.mark.parametrize("digits", [DIGITS.most + 1, 4300, 5000, 1_000_000])
@pytest.mark.parametrize("text", ["%s", '{"a": %s}', '{"a": [-%s]}'])
def test_long_integers_are_refused(digits, text):
    with pytest.raises(CorruptJsonError, match=r"it holds a whole number of [\d,]+ digits, and 40 are the most"):
        parse_json(text % ("9" * digits), "x")


@pytest.mark.parametrize("content", ["[]", "3", '"a"', "null"])
def test_something_else_than_an_object_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(CorruptJsonError, match=re.escape("line 1, column 1: expected an object, found ")):
        read_json_object(tmp_path / "x.json")


class Odd:
    def __repr__(self):
        raise ValueError


@pytest.mark.parametrize(
    "value", [10**5000, [[10**5000]], "a" * 10**6, Odd()], ids=["long", "nested", "text", "raises"]
)
def test_any_value_can_be_shown(value):
    assert len(shown(value)) < 100


def test_a_long_message_keeps_its_remedy():
    message = str(CorruptJsonError("x", "y" * 10**6 + "\ud800"))
    assert len(message) < 4100
    assert message.endswith("Copy or download the file again.")
    assert message.encode()
