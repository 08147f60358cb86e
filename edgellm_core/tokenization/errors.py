"""Why a tokenizer can't be taken, one class per cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.errors import UserError, shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

WITHOUT = "Or remove the tokenizer's files to build a model that takes token ids."


class TokenizerUnreadableError(UserError):
    """transformers can't read the tokenizer."""

    def __init__(self, directory: Path, reason: str) -> None:
        """Build the sentence from the directory and transformers' own reason."""
        super().__init__(
            f"transformers must be able to read the tokenizer in '{directory}'; it can't: {reason}. Download its files "
            f"again, or write them with AutoTokenizer.save_pretrained. {WITHOUT}"
        )


class OwnTokenizerCodeError(UserError):
    """The tokenizer is code that the checkpoint brings."""

    def __init__(self, directory: Path, name: str) -> None:
        """Build the sentence from the directory and the class that its tokenizer_config.json names."""
        super().__init__(
            f"The tokenizer in '{directory}' needs the checkpoint's own Python code, {name!r}, which is not trusted. "
            "Read it and add --trust-remote-code, or put a tokenizer.json there and remove 'auto_map' from "
            "tokenizer_config.json."
        )


class NoTokenizerFileError(UserError):
    """The tokenizer exists in Python only."""

    def __init__(self, directory: Path, name: str) -> None:
        """Build the sentence from the directory and the name of transformers' class."""
        super().__init__(
            f"The tokenizer in '{directory}' must have a form that tokenizer.json can hold; {name} computes in Python. "
            f"Put a tokenizer.json there. {WITHOUT}"
        )


class EmptyTokenizerError(UserError):
    """transformers reads a tokenizer that knows no text."""

    def __init__(self, directory: Path, name: str) -> None:
        """Build the sentence from the directory and the name of transformers' class."""
        super().__init__(
            f"The tokenizer in '{directory}' must know tokens of ordinary text; what transformers reads there, {name}, "
            f"knows none. Put the tokenizer.json of the model there. {WITHOUT}"
        )


class EndlessPatternError(UserError):
    """A pattern of the tokenizer takes ever longer on some text."""

    def __init__(self, directory: Path, patterns: Sequence[str], reason: str) -> None:
        """Build the sentence from the directory, the patterns, and how it showed."""
        listed = ", ".join(shown(pattern) for pattern in patterns[:3])
        super().__init__(
            f"The tokenizer in '{directory}' must come to an end on texts of a thousand characters; with its patterns "
            f"{listed} {reason}. Put the tokenizer.json of the model there. {WITHOUT}"
        )


class TokenizerDiffersError(UserError):
    """The bundle's tokenizer is not that of the source."""

    def __init__(self, directory: Path, name: str, difference: object, *, written: bool) -> None:
        """Build the sentence.

        Args:
            directory: the source.
            name: transformers' class.
            difference: the first one, a clause.
            written: transformers itself wrote the bundle's.
        """
        again = "Build the bundle again with edgellm build, which writes the tokenizer as transformers reads it."
        other = "Put a tokenizer.json there that says the same, or build with --verify off."
        super().__init__(
            f"The bundle's tokenizer must equal transformers' {name} of '{directory}'; {difference}. "
            f"{other if written else again}"
        )
