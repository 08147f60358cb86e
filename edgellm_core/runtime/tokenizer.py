"""Text to tokens and back from a bundle's tokenizer files, without transformers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, TypeVar

from edgellm_core.errors import one_line
from edgellm_core.runtime.chat_template import choose_template, read_chat_templates, render_chat
from edgellm_core.runtime.errors import InvalidTextError, TokenizerFileError
from edgellm_core.untrusted import (
    CorruptJsonError,
    FileLimitError,
    NotAFileError,
    UnreadableFileError,
    read_json_object,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from tokenizers import AddedToken, Tokenizer

Result = TypeVar("Result")

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What decoders write for bytes that are no (or not yet a whole) UTF-8 character."""

SPACED: Final = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"),
    (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip
"""What ``clean_up_tokenization_spaces`` replaces, in this order (``PreTrainedTokenizerBase.clean_up_tokenization``)."""

FORCED_CLEANING: Final = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"


class BundleTokenizer:
    """The tokenizer of a bundle.

    Attributes:
        backend: the tokenizer of the library that reads tokenizer.json.
        special_tokens: ``bos_token``, ``eos_token`` and so on → text, for the chat template.
        added_ids: ids of special tokens, and of those that were added to the vocabulary.
        chat_templates: chat templates by name; empty where there are none.
    """

    def __init__(self, directory: Path) -> None:
        """Read tokenizer.json and, if there are such, tokenizer_config.json and chat templates.

        Args:
            directory: folder of the files: a bundle's ``llm``.

        Raises:
            TokenizerFileError: a file is missing or malformed.
        """
        self._directory = directory
        self._config = read_settings(directory / "tokenizer_config.json")
        self.backend = _load_tokenizer(directory / "tokenizer.json")
        self.backend.encode_special_tokens = self._config.get("split_special_tokens") is True
        self.special_tokens = _named_tokens(self._config)
        self.chat_templates = read_chat_templates(directory, self._config)
        self._special_ids = {identifier for identifier, token in self.added_tokens.items() if token.special}
        self.added_ids = tuple(sorted(self.added_tokens))
        self.cleans_up = _cleans_up(self._config, self.backend)

    @property
    def added_tokens(self) -> Mapping[int, AddedToken]:
        """Tokens that are found in a text before it is split, by id."""
        added: Mapping[int, AddedToken] = self.backend.get_added_tokens_decoder()
        return added

    @property
    def eos_id(self) -> int | None:
        """Id of the end-of-sequence token, if there is one."""
        text = self.special_tokens.get("eos_token")
        return None if text is None else self.backend.token_to_id(text)

    @property
    def size(self) -> int:
        """Number of tokens; ids of the embedding from there on stand for no text."""
        size: int = self.backend.get_vocab_size()
        return size

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of ``text``.

        Args:
            text: any text; special tokens written in it count as such.
            add_special_tokens: put the tokens around it that the post-processor of tokenizer.json wants
                (``add_bos_token`` of tokenizer_config.json has no say beside it in transformers 5 either); False for a
                rendered chat, whose template writes them.

        Raises:
            InvalidTextError: the text holds half a surrogate pair.
            TokenizerFileError: the tokenizer has no token for a part of the text, nor one for what it does not know.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidTextError(error.start, text[error.start]) from error
        path = self._directory / "tokenizer.json"
        ids: list[int] = _told(path, lambda: self.backend.encode(text, add_special_tokens=add_special_tokens)).ids
        return ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of ``ids``.

        Args:
            ids: tokens.
            skip_special_tokens: leave markers out.
        """
        path = self._directory / "tokenizer.json"
        decode = self.backend.decode
        text: str = _told(path, lambda: decode(list(ids), skip_special_tokens=skip_special_tokens))
        if self.cleans_up:
            for spaced, plain in SPACED:
                text = text.replace(spaced, plain)
        return text

    def render_chat(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """Return the text of a conversation in the model's own format.

        Args:
            messages: ``{"role": …, "content": …}`` in order.
            add_generation_prompt: end with the opening of the assistant's answer.
            variables: what else the template reads: ``tools`` and ``documents`` (lists of JSON objects), or switches of
                its own.

        Raises:
            NoChatTemplateError: the model has no template.
            ChatTemplateError: the template is broken, or refuses these messages.
        """
        tools = variables.get("tools") is not None
        return render_chat(
            choose_template(self.chat_templates, self._directory, tools=tools),
            messages,
            special_tokens=self.special_tokens,
            add_generation_prompt=add_generation_prompt,
            **variables,
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
        if not text or text.endswith(REPLACEMENT) or (self._tokenizer.cleans_up and _may_lose_space(text)):
            return ""
        self._move_on()
        return text

    def flush(self) -> str:
        """Return what was held back when the answer ended; an unfinished character becomes ``�``."""
        text = self._pending_text() if self._pending else ""
        self._move_on()
        return text

    def _move_on(self) -> None:
        """Make the pending tokens the context; where spaces are cleaned up, all that came before decides with them."""
        before = self._context if self._tokenizer.cleans_up else []
        self._context, self._pending = [*before, *self._pending], []

    def _pending_text(self) -> str:
        before = self._tokenizer.decode(self._context)
        return self._tokenizer.decode(self._context + self._pending)[len(before) :]


def _may_lose_space(text: str) -> bool:
    """Return whether a text ends in what the next token can make a part of ``SPACED``."""
    return any(text.endswith(spaced[:end]) for spaced, _ in SPACED for end in range(1, len(spaced)))


def read_settings(path: Path) -> dict[str, Any]:
    """Return the contents of a JSON file, empty where there is none.

    Raises:
        TokenizerFileError: it is no JSON object.
    """
    if not os.path.lexists(path):
        return {}
    try:
        return read_json_object(path)
    except (CorruptJsonError, FileLimitError, NotAFileError, UnreadableFileError) as error:
        raise TokenizerFileError(path, error.problem) from error


def _load_tokenizer(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    tokenizer = _told(path, lambda: Tokenizer.from_file(str(path)))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _told(path: Path, function: Callable[[], Result]) -> Result:
    """Call the Rust library, whose errors are Exception itself, or a panic, which is none."""
    try:
        return function()
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        raise TokenizerFileError(path, one_line(error)) from error


def is_panic(error: BaseException) -> bool:
    """Return whether an exception is a panic of Rust, whose class can't be imported."""
    return type(error).__name__ == "PanicException"


def _named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Return what tokenizer_config.json calls ``…_token``, and tokens with names of a model's own."""
    named = {name: value for name, value in config.items() if name.endswith("_token")}
    for key in ("model_specific_special_tokens", "extra_special_tokens"):
        if isinstance(config.get(key), dict):
            named.update(config[key])
    texts = {name: _token_text(value) for name, value in named.items()}
    return {name: text for name, text in texts.items() if text}


def _cleans_up(config: Mapping[str, Any], tokenizer: Tokenizer) -> bool:
    """Return whether decoding drops spaces before punctuation; transformers leaves BPE alone unless it is forced."""
    if config.get("clean_up_tokenization_spaces") is not True:
        return False
    return type(tokenizer.model).__name__ != "BPE" or config.get(FORCED_CLEANING) is True


def _token_text(value: object) -> str:
    """Return the text of a special token, which tokenizer_config.json gives as string or as ``{"content": …}``."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""
