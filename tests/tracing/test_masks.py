"""Masks are recognised by evaluating them; what fits no kind is written out."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import masking_utils as masking

from edgellm_core.tracing.masks import MaskKind, classify_mask


def every_other_head(batch, head, q, k):
    return (k <= q) & (head % 2 == 0)


def first_row_only(batch, head, q, k):
    return (k <= q) & ((batch == 0) | (k == q))


def strictly_before(batch, head, q, k):
    return k < q


def for_scalars(batch, head, q, k):
    return torch.tensor(int(k) <= int(q))


def over_prefix(prefix):
    return lambda batch, head, q, k: (k <= q) | (k < prefix)


@pytest.mark.parametrize("size", [1, 2, 5, 64, 512, 513, 700, 4096])
def test_a_window_is_recognised(size):
    function = masking.sliding_window_causal_mask_function(size)
    assert classify_mask(function, size) == MaskKind(causal=True, window=size)


@pytest.mark.parametrize("size", [3, 100, 900])
def test_a_window_that_is_not_announced_is_recognised(size):
    """A mask with a window of its own, beyond the positions that a plain causal mask is probed on."""
    overlay = masking.sliding_window_overlay(size)
    function = masking.and_masks(masking.causal_mask_function, overlay)
    assert classify_mask(function, None) == MaskKind(causal=True, window=size)


@pytest.mark.parametrize("size", [2, 5, 600])
def test_a_chunk_is_recognised(size):
    def chunked(batch, head, q, k):
        return (k <= q) & (k // size == q // size)

    assert classify_mask(chunked, size) == MaskKind(causal=True, chunk=size)


def test_causal_and_full_masks_are_recognised():
    assert classify_mask(masking.causal_mask_function, None) == MaskKind(causal=True)
    assert classify_mask(masking.causal_mask_function, 5) == MaskKind(causal=True)
    assert classify_mask(masking.bidirectional_mask_function, None) == MaskKind(causal=False)


@pytest.mark.parametrize(
    "function",
    [
        masking.chunked_causal_mask_function(4, torch.zeros(2, dtype=torch.long)),
        masking.and_masks(masking.causal_mask_function, masking.packed_sequence_mask_function(torch.zeros(2, 9))),
        masking.and_masks(masking.causal_mask_function, masking.padding_mask_function(torch.ones(2, 9).bool())),
        functools.partial(lambda keep, batch, head, q, k: (k <= q) & keep[0], torch.ones(1).bool()),
    ],
    ids=["chunks from the first token", "packed sequences", "padding", "bound argument"],
)
def test_a_mask_over_a_tensor_is_of_no_kind(function):
    assert classify_mask(function, 4) is None


@pytest.mark.parametrize(
    "function",
    [every_other_head, first_row_only, strictly_before, for_scalars, over_prefix(3), over_prefix(200)],
)
def test_near_misses_are_of_no_kind(function):
    assert classify_mask(function, None) is None


@pytest.mark.parametrize("announced", [5, 700])
def test_a_window_of_another_size_is_not_taken_for_the_announced_one(announced):
    function = masking.sliding_window_causal_mask_function(announced + 1)
    assert classify_mask(function, announced) == MaskKind(causal=True, window=announced + 1)


def test_two_sided_windows_are_of_no_kind():
    assert classify_mask(masking.sliding_window_bidirectional_mask_function(3), 3) is None


@given(st.booleans(), st.integers(0, 9), st.integers(0, 9), st.lists(st.integers(0, 40), min_size=1, max_size=8))
@settings(max_examples=80, deadline=None)
def test_evaluate_equals_a_loop(causal, window, chunk, queries):
    keys = list(range(41))
    kind = MaskKind(causal, window=window, chunk=chunk)
    allowed = kind.evaluate(torch.tensor(queries), torch.tensor(keys))
    for row, q in enumerate(queries):
        for k in keys:
            expected = True
            if causal and k > q:
                expected = False
            if window and q - k >= window:
                expected = False
            if chunk and (q // chunk) != (k // chunk):
                expected = False
            assert bool(allowed[row, k]) == expected, (q, k)
