"""What a source of text gives, and how it becomes documents of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from edgellm_core.calibration.data.errors import NoCalibrationTemplateError, TextTypeError
from edgellm_core.calibration.data.packing import shuffled, tokens_of
from edgellm_core.runtime.errors import NoChatTemplateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from edgellm_core.runtime.tokenizer import BundleTokenizer

Message: TypeAlias = Mapping[str, Any]
Text: TypeAlias = "str | Sequence[Message]"
"""Plain text, or the messages of a conversation, each with ``role`` and ``content``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextSource:
    """Texts in the order of their source.

    Attributes:
        name: what it is, in words.
        texts: the texts; empty ones are left out later.
        streamed: the texts come over a network, so only as many are read as the samples take, and those are shuffled.
    """

    name: str
    texts: Iterable[Any]
    streamed: bool = False


def documents_of(
    source: TextSource, tokenizer: BundleTokenizer, *, chat: bool, seed: int, tokens: int
) -> Iterator[list[int]]:
    """Yield the tokens of texts in the order that the seed decides.

    Args:
        source: where the texts come from.
        tokenizer: the model's.
        chat: write each text as a conversation.
        seed: decides the order.
        tokens: how many are needed, so that a stream is not read further.

    Raises:
        TextTypeError: a text is neither text nor a conversation.
        NoCalibrationTemplateError: ``chat``, and the model has no chat template.
    """
    encode = _chat_encoder(tokenizer) if chat else _plain_encoder(tokenizer, source.name)
    texts = (text for text in source.texts if not is_empty(text))
    if source.streamed:
        return iter(shuffled(list(_until(map(encode, texts), tokens)), seed))
    return map(encode, shuffled(list(texts), seed))


def conversation_of(text: str) -> list[Message]:
    """Return a conversation out of plain text: the user says the first paragraph, the assistant what follows.

    A single paragraph is divided between the two.
    """
    opening, _, rest = text.strip().partition("\n\n")
    if not rest.strip():
        words = text.split()
        half = (len(words) + 1) // 2
        opening, rest = " ".join(words[:half]), " ".join(words[half:])
    return [{"role": "user", "content": opening.strip()}, {"role": "assistant", "content": rest.strip()}]


def is_empty(text: object) -> bool:
    """Return whether there is nothing to tokenize: None, white space, no message."""
    return text is None or (isinstance(text, str) and not text.strip()) or (isinstance(text, Sequence) and not text)


def is_conversation(text: object) -> bool:
    """Return whether a value is a list of messages with a role and a content."""
    return (
        isinstance(text, Sequence)
        and not isinstance(text, str)
        and all(isinstance(message, Mapping) and {"role", "content"} <= set(message) for message in text)
    )


def _plain_encoder(tokenizer: BundleTokenizer, source: str) -> Callable[[Any], list[int]]:
    def encode(text: object) -> list[int]:
        if not isinstance(text, str):
            raise TextTypeError(source, "text", text, chat=is_conversation(text))
        return tokens_of(text, tokenizer)

    return encode


def _chat_encoder(tokenizer: BundleTokenizer) -> Callable[[Any], list[int]]:
    def encode(text: object) -> list[int]:
        if not isinstance(text, str) and not is_conversation(text):
            raise TextTypeError("--calib-chat", "text, or a list of messages with role and content", text, chat=False)
        messages = conversation_of(text) if isinstance(text, str) else text
        try:
            rendered = tokenizer.render_chat(messages, add_generation_prompt=False)  # type: ignore[arg-type]  # checked
        except NoChatTemplateError as error:
            raise NoCalibrationTemplateError from error
        return tokenizer.encode(rendered, add_special_tokens=False)

    return encode


def _until(documents: Iterable[list[int]], tokens: int) -> Iterator[list[int]]:
    found = 0
    for document in documents:
        yield document
        found += len(document)
        if found >= tokens:
            return
