"""Patterns of a tokenizer that some text keeps busy without end: found before a bundle has them."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.runtime.errors import TokenizerFileError
from edgellm_core.runtime.tokenizer import read_settings
from edgellm_core.tokenization.errors import EndlessPatternError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

SECONDS: Final = 60
"""What all texts together may take; the patterns of GPT-4, Llama 3 and Qwen take one second on one core."""

MOST_CHARACTERS: Final = 64
"""Characters of the patterns that are tried."""


def require_bounded_patterns(file: Path, source: Path) -> None:
    """Refuse a tokenizer with a pattern that takes ever longer on a text that a user may type.

    Args:
        file: tokenizer.json; without a regular expression, or not there, it passes.
        source: the checkpoint, for the message.

    Raises:
        EndlessPatternError: naming the patterns.
    """
    try:
        found = list(_patterns(read_settings(file)))
    except TokenizerFileError:
        return  # transformers, which reads it next, says why
    if not found:
        return
    characters = "".join(dict.fromkeys(char for pattern in found for char in pattern if char != "\x00"))
    command = [sys.executable, "-m", "edgellm_core.tokenization.stress", str(file), characters[:MOST_CHARACTERS]]
    environment = {**os.environ, "RUST_BACKTRACE": "0", "TOKENIZERS_PARALLELISM": "false"}
    try:
        done = subprocess.run(
            command, env=environment, timeout=SECONDS, capture_output=True, text=True, errors="replace", check=False
        )
    except subprocess.TimeoutExpired:
        raise EndlessPatternError(source, found, f"it had not ended after {SECONDS} s") from None
    if done.returncode and "retry-limit" in done.stderr:
        raise EndlessPatternError(source, found, "the regex engine gave up")


def _patterns(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield the regular expressions of a tokenizer.json, wherever they are; the vocabulary is not searched."""
    for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        yield from _in_part(fields.get(key))


def _in_part(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        pattern = part.get("Regex")
        if isinstance(pattern, str):
            yield pattern
        for value in part.values():
            yield from _in_part(value)
    elif isinstance(part, list):
        for value in part:
            yield from _in_part(value)
