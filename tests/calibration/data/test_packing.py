"""Packing: samples hold nothing but the tokens of the texts, in an order that the seed decides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm_core.calibration.data.packing import pack, shuffled, tokens_of

PAD = 258


@given(
    documents=st.lists(st.lists(st.integers(0, 255), max_size=20), max_size=20),
    samples=st.integers(1, 6),
    length=st.integers(1, 9),
)
def test_samples_are_the_joined_documents_cut(documents, samples, length):
    ids, found = pack(documents, samples=samples, length=length)
    stream = [token for document in documents for token in document]
    assert ids.dtype == np.int64
    assert ids.shape == (min(samples, len(stream) // length), length)
    assert ids.ravel().tolist() == stream[: ids.size]
    assert PAD not in ids
    assert found >= ids.size


def test_documents_are_read_only_until_there_is_enough():
    read = []

    def documents():
        for index in range(100):
            read.append(index)
            yield [index] * 10

    ids, found = pack(documents(), samples=3, length=8)
    assert (ids.shape, found, read) == ((3, 8), 30, [0, 1, 2])


@pytest.mark.parametrize(
    ("bos", "eos", "expected"),
    [(False, True, "hi</s>"), (True, True, "<s>hi</s>"), (True, False, "<s>hi"), (False, False, "hi")],
)
def test_texts_are_closed_as_the_tokenizer_marks_them(make_tokenizer, bos, eos, expected):
    tokenizer = make_tokenizer(bos=bos, eos=eos)
    assert tokens_of("hi", tokenizer) == tokenizer.encode(expected, add_special_tokens=False)


def test_an_end_token_is_not_doubled(tokenizer):
    assert tokens_of("hi</s>", tokenizer) == tokens_of("hi", tokenizer)


def test_the_order_depends_on_the_seed_alone():
    texts = list("abcdefgh")
    assert "".join(shuffled(texts, 0)) == "hedcgafb"  # the order of sha256sum over "0:0", "0:1", …
    assert shuffled(texts, 1) != shuffled(texts, 0)
    assert sorted(shuffled(texts, 1)) == texts
