"""Texts to samples of equal length: joined and cut, never padded, so no pad position can enter a statistic."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from edgellm_core.runtime.tokenizer import BundleTokenizer


def shuffled(texts: Sequence[Any], seed: int) -> list[Any]:
    """Return the texts in an order that the seed alone decides, on every machine and version of Python."""

    def key(index: int) -> bytes:
        return hashlib.sha256(f"{seed}:{index}".encode()).digest()

    return [texts[index] for index in sorted(range(len(texts)), key=key)]


def tokens_of(text: str, tokenizer: BundleTokenizer) -> list[int]:
    """Return the tokens of one text as the model meets it, closed by the end-of-sequence token.

    A beginning-of-sequence token is there where the tokenizer itself adds one.
    """
    ids = tokenizer.encode(text)
    end = tokenizer.eos_id
    return ids if end is None or ids[-1:] == [end] else [*ids, end]


def pack(documents: Iterable[Sequence[int]], *, samples: int, length: int) -> tuple[NDArray[np.int64], int]:
    """Join documents and cut them into samples; documents are read only until there is enough.

    Args:
        documents: tokens of each text.
        samples: how many samples to make at most.
        length: tokens of each.

    Returns:
        ids int64 ``[at most samples, length]``, every position a token of a document, and the number of tokens that
        were read.
    """
    tokens: list[int] = []
    for document in documents:
        tokens.extend(document)
        if len(tokens) >= samples * length:
            break
    whole = min(len(tokens) // length, samples)
    return np.array(tokens[: whole * length], dtype=np.int64).reshape(whole, length), len(tokens)
