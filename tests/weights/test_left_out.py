"""Every tensor that is not in the graph has a reason, and is told in a group that holds nothing which is kept."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm_core.checkpoint.tensors import TensorEntry
from edgellm_core.weights.left_out import NO_ELEMENTS, STORED_MASK, LeftOut, grouped, reason_to_leave_out


def entry(name="model.extra", shape=(8,), nbytes=32):
    return TensorEntry(name=name, element_type="F32", shape=shape, file=Path("x"), offset=0, nbytes=nbytes)


def reason(tensor, known=None, ignored=()):
    return reason_to_leave_out(tensor, known or {}, ignored, "llama")


def test_transformers_comes_before_the_family():
    known = {"model.extra": "transformers says so"}
    assert reason(entry(), known, ("model.extra",)) == "transformers says so"
    assert reason(entry(), {}, ("model.extra",)) == "family 'llama' ignores it"


def test_a_family_has_to_match_the_whole_name():
    assert not reason(entry(), {}, ("model", "extra", r"model\.ext"))
    assert reason(entry(), {}, ("unrelated", r"model\..*"))


def test_scales_of_a_weight_that_is_left_out_go_with_it():
    known = {"mtp.0.q_proj.weight": "it predicts"}
    assert reason(entry("mtp.0.q_proj.weight_scale"), known) == "it predicts"
    assert not reason(entry("mtp.0.k_proj.weight_scale"), known)


@pytest.mark.parametrize("name", ["h.3.attn.bias", "transformer.h.3.attn.attention.bias", "x.attention.causal_mask"])
def test_a_mask_is_known_by_its_shape(name):
    assert reason(entry(name, (1, 1, 64, 64))) == STORED_MASK
    for shape in ((64,), (64, 64), (1, 64, 64), (1, 2, 64, 64), (1, 1, 64, 32), (1, 1, 1, 1)):
        assert not reason(entry(name, shape))


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_masked_score_is_one_number(shape):
    assert reason(entry("gpt_neox.layers.0.attention.masked_bias", shape)) == STORED_MASK
    assert not reason(entry("gpt_neox.layers.0.attention.masked_bias", (2,)))


@pytest.mark.parametrize("name", ["h.0.attn.c_attn.bias", "h.0.attn.relative_bias", "h.0.mlp.bias", "attn_bias"])
def test_other_biases_are_no_masks(name):
    assert not reason(entry(name, (1, 1, 64, 64)))


def test_a_tensor_without_elements_changes_nothing():
    assert reason(entry(shape=(4, 0))) == NO_ELEMENTS


def told(kept, left_out):
    tensors = {name: entry(name) for name in (*kept, *left_out)}
    return [(group.pattern, group.tensors, group.why) for group in grouped(left_out, tensors)]


def test_groups_end_where_nothing_that_is_kept_begins_alike():
    kept = ["model.layers.0.attn.q.weight", "model.layers.1.attn.q.weight", "lm_head.weight"]
    left_out = {
        "model.vision_tower.layers.0.q.weight": "images", "model.vision_tower.norm.weight": "images",
        "model.layers.2.attn.q.weight": "further", "model.layers.2.eh_proj.weight": "further",
        "model.layers.0.attn.bias": "mask", "model.layers.1.attn.bias": "mask", "step": "other",
    }  # fmt: skip
    assert told(kept, left_out) == [
        ("model.layers.*.attn.bias", 2, "mask"), ("model.layers.2.*", 2, "further"),
        ("model.vision_tower.*", 2, "images"), ("step", 1, "other"),
    ]  # fmt: skip


def test_reasons_are_never_mixed():
    assert told(["a.w"], {"b.x": "one", "b.y": "two"}) == [("b.*", 1, "one"), ("b.*", 1, "two")]


PARTS = st.lists(st.sampled_from(["a", "b", "0", "1", "w"]), min_size=1, max_size=4).map(".".join)


def as_regex(pattern):
    inner, end = (pattern[:-2], r"\..*") if pattern.endswith(".*") else (pattern, "")
    return r"\.".join(r"\d+" if part == "*" else part for part in inner.split(".")) + end


@given(st.sets(PARTS), st.sets(PARTS))
def test_patterns_match_what_they_speak_of_and_nothing_that_is_kept(kept, left_out):
    left_out -= kept
    tensors = {name: entry(name) for name in kept | left_out}
    groups = grouped(dict.fromkeys(left_out, "why"), tensors)
    assert sum(group.tensors for group in groups) == len(left_out)
    assert sum(group.bytes for group in groups) == 32 * len(left_out)
    patterns = [re.compile(as_regex(group.pattern)) for group in groups]
    assert all(any(pattern.fullmatch(name) for pattern in patterns) for name in left_out)
    assert not any(pattern.fullmatch(name) for pattern in patterns for name in kept)


@pytest.mark.parametrize(("size", "shown"), [(0, "0 bytes"), (49152, "49,152 bytes"), (862_000_000, "862.0 MB")])
def test_a_group_is_one_sentence(size, shown):
    group = LeftOut(pattern="vision_tower.*", tensors=437, bytes=size, why="the model does not read it")
    assert str(group) == f"Left out: vision_tower.* (437 tensor(s), {shown}): the model does not read it."
