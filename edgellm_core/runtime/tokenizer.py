"""Text to tokens and back from a bundle's tokenizer files, without transformers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from edgellm_core.runtime.chat_template import read_chat_template, render_chat
from edgellm_core.runtime.errors import TokenizerFileError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tokenizers import Tokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What decoders write for bytes that are no (or not yet a whole) UTF-8 character."""


class BundleTokenizer:
    """The tokenizer of a bundle.

    Attributes:
        special_tokens: ``bos_token``, ``eos_token`` and so on → text, for the chat template.
        added_ids: ids of special tokens, and of those that were added to the vocabulary.
    """

    def __init__(self, directory: Path) -> None:
        """Read tokenizer.json and, if there is one, tokenizer_config.json.

        Args:
            directory: folder of the files: a bundle's ``llm``.

        Raises:
            TokenizerFileError: a file is missing or malformed.
        """
        self._directory = directory
        self._tokenizer = _load_tokenizer(directory / "tokenizer.json")
        self._config = read_json_object(directory / "tokenizer_config.json")
        named = {name: _token_text(value) for name, value in self._config.items() if name.endswith("_token")}
        self.special_tokens = {name: text for name, text in named.items() if text}
        added = self._tokenizer.get_added_tokens_decoder()
        self._special_ids = {identifier for identifier, token in added.items() if token.special}
        self.added_ids = tuple(sorted(added))

    @property
    def eos_id(self) -> int | None:
        """Id of the end-of-sequence token, if there is one."""
        text = self.special_tokens.get("eos_token")
        return None if text is None else self._tokenizer.token_to_id(text)

    @property
    def size(self) -> int:
        """Number of tokens; ids of the embedding from there on stand for no text."""
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of ``text``.

        Args:
            text: any text; special tokens written in it count as such.
            add_special_tokens: put the tokens around it that the post-processor of tokenizer.json wants
                (``add_bos_token`` of tokenizer_config.json has no say beside it in transformers 5 either); False for a
                rendered chat, whose template writes them.
        """
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids`` without special tokens."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def render_chat(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """Return the text of a conversation in the model's own format.

        Args:
            messages: ``{"role": …, "content": …}`` in order.
            add_generation_prompt: end with the opening of the assistant's answer.

        Raises:
            NoChatTemplateError: the model has no template.
            ChatTemplateError: the template is broken, or refuses these messages.
        """
        template = read_chat_template(self._directory, self._config)
        return render_chat(
            template, messages, special_tokens=self.special_tokens, add_generation_prompt=add_generation_prompt
        )

    def stream(self) -> TextStream:
        """Return a new incremental decoder."""
        return TextStream(self)

    def is_special(self, identifier: int) -> bool:
        """Return whether a token is a marker that is no part of the text."""
        return identifier in self._special_ids


class TextStream:
    """Turns tokens into text as they come; the pieces together are the text of all tokens.

    A token can hold a part of a UTF-8 character, and the text of a token can depend on the one before it (a space that
    only the first word lacks). So a token is decoded together with those of the piece before, and text is held back
    while it ends in an unfinished character. One exception: bytes that are no UTF-8 at all turn the valid ones just
    before them into ``�`` in decoders with byte fallback, and those may have been shown already.
    """

    def __init__(self, tokenizer: BundleTokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._pending: list[int] = []

    def push(self, identifier: int) -> str:
        """Add one token; return the text that is certain now, which may be empty."""
        if self._tokenizer.is_special(identifier):
            return ""
        self._pending.append(identifier)
        text = self._pending_text()
        if not text or text.endswith(REPLACEMENT):
            return ""
        self._context, self._pending = self._pending, []
        return text

    def flush(self) -> str:
        """Return what was held back when the answer ended; an unfinished character becomes ``�``."""
        text = self._pending_text() if self._pending else ""
        self._context, self._pending = self._pending, []
        return text

    def _pending_text(self) -> str:
        before = self._tokenizer.decode(self._context)
        return self._tokenizer.decode(self._context + self._pending)[len(before) :]


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the contents of a JSON file, empty where there is none.

    Raises:
        TokenizerFileError: it is no JSON object.
    """
    if not path.exists():
        return {}
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TokenizerFileError(path, str(error)) from error
    if not isinstance(contents, dict):
        raise TokenizerFileError(path, "it holds no JSON object")
    return contents


def _load_tokenizer(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises Exception itself
        raise TokenizerFileError(path, str(error)) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _token_text(value: object) -> str:
    """Return the text of a special token, which tokenizer_config.json gives as string or as ``{"content": …}``."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""
