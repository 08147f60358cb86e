"""Text that every Python installation carries: the documentation topics of ``pydoc_data``, in two disjoint halves.

The topics repeat long passages of one another, so a split by topic would put the same paragraph on both sides. Here
every distinct paragraph falls to one side, by a digest of its words.
"""

from __future__ import annotations

import hashlib
import platform
import re
from typing import Final, Literal

Split = Literal["calibration", "held_out"]
"""What a text may be used for: collecting statistics, or measuring the model that came out."""

HELD_OUT_SHARE: Final = 4
"""One paragraph in this many is held out: of about 80 000 tokens, 60 000 remain for calibration."""


def builtin_texts(split: Split) -> list[str]:
    """Return the paragraphs of one split, those of one topic joined into one text, in the order of the topics."""
    from pydoc_data.topics import topics

    seen: set[str] = set()
    texts = []
    for name in sorted(topics):
        kept = []
        for paragraph in re.split(r"\n\s*\n", topics[name]):
            words = normalized(paragraph)
            if words and words not in seen and split_of(words) == split:
                kept.append(paragraph.strip("\n"))
            seen.add(words)
        if kept:
            texts.append("\n\n".join(kept))
    return texts


def builtin_description(split: Split) -> str:
    """Name the text and the Python that it comes from; every version has another one."""
    return f"builtin {split.replace('_', '-')} text (documentation topics of Python {platform.python_version()})"


def normalized(paragraph: str) -> str:
    """Return the words of a paragraph with single spaces between them."""
    return " ".join(paragraph.split())


def split_of(words: str) -> Split:
    """Return the side that a paragraph falls to, the same on every machine."""
    digest = hashlib.sha256(words.encode()).digest()
    return "held_out" if digest[0] % HELD_OUT_SHARE == 0 else "calibration"
