"""The prompts of the parity gate: text where the checkpoint has a tokenizer that knows it, else random tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from edgellm_core.runtime.errors import TokenizerFileError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgellm_core.runtime.tokenizer import BundleTokenizer

Prompt = tuple[int, ...]
"""Token ids."""

TEXTS: Final = (
    "The capital of France is",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "Once upon a time, in a small village by the sea, there lived an old fisherman who",
    "2 + 2 = 4, 3 × 7 = 21, and 1000 - 1 = 999. Übung macht den Meister. Rome wasn't built in a day. 東京は日本の首都",
)
"""Prose, code, numbers and other scripts, of different lengths."""

RANDOM_LENGTHS: Final = (5, 11, 19, 34)
"""Lengths of the random prompts that take the place of texts."""

MOST_TOKENS: Final = 40
"""Longest prompt: logits of 4 prompts over a vocabulary of 256,000 then take 0.1 GiB."""

LEAST_DISTINCT: Final = 0.5
"""Share of different tokens that a text needs. A tokenizer that does not know its words repeats one token, and then
every value that attention averages is the same, so that wrong attention would go unseen."""


def choose_prompts(directory: Path, *, vocab_size: int, longest: int) -> tuple[Prompt, ...]:
    """Return prompts of different lengths; the same ones each time.

    Args:
        directory: the checkpoint; its tokenizer.json is used if there is one.
        vocab_size: ids are below it.
        longest: most tokens of a prompt; at least 1.
    """
    encoded = _encode(directory)
    prompts: list[Prompt] = []
    for index, random in enumerate(random_prompts(RANDOM_LENGTHS, vocab_size=vocab_size)):
        text = encoded[index] if encoded else ()
        tokens = (text if _is_telling(text, vocab_size) else random)[: min(longest, MOST_TOKENS)]
        prompts.append(_with_new_length(tokens, prompts))
    return tuple(prompts)


def random_prompts(lengths: Sequence[int], *, vocab_size: int) -> list[Prompt]:
    """Return random tokens below ``vocab_size`` in sequences of some lengths; the same ones each time."""
    generator = np.random.default_rng(0)
    return [tuple(int(token) for token in generator.integers(0, vocab_size, length)) for length in lengths]


def _encode(directory: Path) -> list[Prompt]:
    from edgellm_core.runtime.tokenizer import BundleTokenizer

    if not (directory / "tokenizer.json").is_file():
        return []
    tokenizer = BundleTokenizer(directory)
    return [tuple(known_ids(tokenizer, text)) for text in TEXTS]


def known_ids(tokenizer: BundleTokenizer, text: str, *, add_special_tokens: bool = True) -> list[int]:
    """Return the ids of a text; none where the tokenizer has no token for a part of it, nor one for the unknown."""
    try:
        return tokenizer.encode(text, add_special_tokens=add_special_tokens)
    except TokenizerFileError:
        return []


def _is_telling(tokens: Prompt, vocab_size: int) -> bool:
    return bool(tokens) and max(tokens) < vocab_size and len(set(tokens)) >= LEAST_DISTINCT * len(tokens)


def _with_new_length(tokens: Prompt, taken: Sequence[Prompt]) -> Prompt:
    """Shorten a prompt until no other has its length; a prompt of one token stays."""
    lengths = {len(prompt) for prompt in taken}
    while len(tokens) > 1 and len(tokens) in lengths:
        tokens = tokens[:-1]
    return tokens
