"""The text that the range of float16 is watched on: 4,096 tokens, and the tokens most likely to be extreme.

A single token that no prompt holds can drive an activation past 65504: an untrained row of the embedding, a token whose
embedding is large, or one that points where the first layers amplify. Trying every token of a large vocabulary would
cost as much as a prompt of that length; ``extreme_tokens.py`` chooses some hundred.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from edgellm_core.verification.extreme_tokens import extreme_tokens
from edgellm_core.verification.prompts import TEXTS, known_ids

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from edgellm_core.runtime.tokenizer import BundleTokenizer
    from edgellm_core.verification.cases import Ids
    from edgellm_core.verification.extreme_tokens import Table

TEXT_TOKENS: Final = 4096
"""Least tokens of text."""

ROW_LENGTH: Final = 512
"""Tokens of a row of text, where the context allows; eager attention takes memory with its square."""

PAIR: Final = 2
"""Tokens of a row of extreme ones: each stands once at the start, where models keep their largest activations, and once
behind another token."""

MARKERS: Final = 256
"""Special and added tokens that are kept, and as many rows beyond the tokenizer's vocabulary; of more, those with the
most extreme embeddings are kept by the measures, and the first ones here."""

LEAST_KNOWN: Final = 256
"""Different tokens that the text must have, or a quarter of a small vocabulary; else the tokenizer does not know it."""


@dataclass(frozen=True, kw_only=True)
class WatchText:
    """Token ids, without padding.

    Attributes:
        text: int64 [rows, length], at least ``TEXT_TOKENS`` together.
        extreme: int64 [rows, ``PAIR``]: single tokens that may be extreme.
    """

    text: Ids
    extreme: Ids


def watch_text(
    directory: Path,
    table: Table,
    shape: tuple[int, int],
    *,
    vocab_size: int | None = None,
    context: int | None,
    directions: torch.Tensor | None = None,
) -> WatchText:
    """Return what to run; the same each time.

    Args:
        directory: the checkpoint; its tokenizer.json is used if there is one.
        table: the embedding.
        shape: of the table, [vocabulary, hidden].
        vocab_size: ids that the model takes are below it; None for all rows of the table.
        context: longest sequence that the model was made for; None if unknown.
        directions: float32 [count, hidden], see :func:`amplified_directions`.
    """
    vocab = min(shape[0], vocab_size or shape[0])
    tokenizer = _tokenizer(directory)
    length = min(ROW_LENGTH, context or ROW_LENGTH)
    tokens = _markers(tokenizer, vocab) + extreme_tokens(table, (vocab, shape[1]), directions)
    distinct = list(dict.fromkeys(tokens))
    size = min(PAIR, length)
    rows = [[distinct[(place + step) % len(distinct)] for step in range(size)] for place in range(len(distinct))]
    return WatchText(text=_text_rows(tokenizer, vocab, length), extreme=np.array(rows, np.int64))


def _tokenizer(directory: Path) -> BundleTokenizer | None:

    from edgellm_core.runtime.tokenizer import BundleTokenizer

    return BundleTokenizer(directory) if (directory / "tokenizer.json").is_file() else None


def _text_rows(tokenizer: BundleTokenizer | None, vocab: int, length: int) -> Ids:
    """Return rows of text, each with what the tokenizer puts before a text; random ids where it knows no text."""
    rows = -(-TEXT_TOKENS // length)
    encoded = _encoded(tokenizer, rows * length)
    start = [token for token in known_ids(tokenizer, "") if token < vocab][: length - 1] if tokenizer else []
    body = length - len(start)
    known = encoded[encoded < vocab]
    if len(known) < rows * body or len(np.unique(known)) < min(vocab // 4, LEAST_KNOWN):
        known = np.random.default_rng(0).integers(0, vocab, rows * body)
    bodies = known[: rows * body].reshape(rows, body)
    return np.concatenate([np.tile(np.array(start, np.int64), (rows, 1)), bodies], axis=1)


def _encoded(tokenizer: BundleTokenizer | None, least: int) -> Ids:
    from edgellm_core.calibration.data.builtin_text import builtin_texts

    ids: list[int] = []
    if tokenizer is None:
        return np.array(ids, np.int64)
    for text in (*TEXTS, *builtin_texts("held_out")):
        ids += known_ids(tokenizer, text, add_special_tokens=False)
        if len(ids) >= least:
            break
    return np.array(ids, np.int64)


def _markers(tokenizer: BundleTokenizer | None, vocab: int) -> list[int]:
    """Return special and added tokens, and rows that no text can reach."""
    if tokenizer is None:
        return []
    added = [token for token in tokenizer.added_ids if token < vocab]
    return added[:MARKERS] + list(range(tokenizer.size, vocab))[:MARKERS]
