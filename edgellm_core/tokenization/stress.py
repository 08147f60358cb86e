"""``python -m edgellm_core.tokenization.stress tokenizer.json``: encodes long monotonous texts, or dies trying.

Run as a process of its own (``patterns.py``): a pattern that backtracks without end can't be stopped from inside, and
the regex engine of the tokenizers library ends with a panic.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

REPEATED: Final = ("a", "A", " ", "\n", "\t", "1", "!", "_", "é", "漢", "aA", "a1", "a ", "ab", " \n", "\r\n")
"""What is repeated: one of each class that patterns of tokenizers tell apart, and changes between two."""

TAILS: Final = ("", "!", "a", "\x00")
"""What ends a text: a repetition that can't go on is where backtracking begins. Another end has what a pattern demands
after the repetition, without which the regex engine would not even begin."""

LENGTH: Final = 1_000
"""Characters of a text. Two nested repetitions over them take 2^1000 steps, and a single one a thousand."""


def texts(pattern_characters: str) -> Iterator[str]:
    """Yield the texts.

    Args:
        pattern_characters: characters of the tokenizer's patterns, which may be what one repeats.
    """
    own = filter(str.isalnum, pattern_characters)
    for unit in dict.fromkeys((*REPEATED, *own)):
        for tail in (*TAILS, f"\x00{pattern_characters}"):
            yield unit * (LENGTH // len(unit)) + tail


def main(path: str, pattern_characters: str) -> None:
    """Encode every text with the tokenizer in a file."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    for text in texts(pattern_characters):
        tokenizer.encode(text)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
