"""A bundle's tokenizer beside transformers' own: state, ids, text, streamed text, and rendered chats."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.runtime.errors import ChatTemplateError, NoChatTemplateError, TokenizerFileError
from edgellm_core.runtime.tokenizer import REPLACEMENT, is_panic
from edgellm_core.tokenization.reference import quiet
from edgellm_core.tokenization.texts import CONVERSATIONS, TEXTS, Conversation, conversation_of, texts_around

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tokenizers import Tokenizer

    from edgellm_core.runtime.tokenizer import BundleTokenizer

PARTS: Final = ("model", "normalizer", "pre_tokenizer", "decoder")
"""Parts of tokenizer.json that have to be the same; the post-processor is judged by what it does."""

SAMPLE: Final = 512
"""Ids that are decoded, spread over the vocabulary."""

SHOWN: Final = 80
"""Most characters of a value in a message."""

FAILED: Final = "an error"


@dataclass(frozen=True, slots=True)
class Difference:
    """The first thing that differs.

    Attributes:
        what: what was compared, and of which text.
        found: the bundle's.
        wanted: transformers'.
    """

    what: str
    found: object
    wanted: object

    def __str__(self) -> str:
        """Return ``the ids of 'a b' are [1] and not [2]``."""
        return f"{self.what} is {_shown(self.found)} and not {_shown(self.wanted)}"


@dataclass(frozen=True, slots=True)
class Compared:
    """What a comparison found.

    Attributes:
        texts: texts that were encoded and decoded.
        chats: conversations that were rendered.
        difference: the first difference, a clause; None where both are equal.
    """

    texts: int
    chats: int
    difference: Difference | str | None


def compare(tokenizer: BundleTokenizer, reference: Any, parts: Sequence[str] = PARTS) -> Compared:
    """Compare a bundle's tokenizer with transformers' of the source.

    Args:
        tokenizer: as ``edgellm run`` reads it.
        reference: from :func:`edgellm_core.tokenization.reference.load_reference`.
        parts: parts of tokenizer.json that have to be the same; all are judged by what they do as well.
    """
    texts = [*TEXTS, *texts_around(_special(tokenizer, reference))]
    conversations = [*CONVERSATIONS, conversation_of(list(reference.special_tokens_map.values()))]
    with quiet():
        differences = chain(
            _states(tokenizer, reference, parts),
            _texts(tokenizer, reference, texts),
            _vocabulary_texts(tokenizer, reference),
            _chats(tokenizer, reference, conversations),
        )
        first = next(differences, None)
    chats = len(conversations) if reference.chat_template else 0
    return Compared(len(texts), chats, first)


def knows_text(reference: Any) -> bool:
    """Return whether a tokenizer has tokens for ordinary text: at least two that are no markers."""
    markers = {*reference.all_special_ids, *reference.added_tokens_decoder}
    with quiet():
        found = (_ids(reference, text, special=False) for text in TEXTS)
        known = {token for ids in found if isinstance(ids, list) for token in ids} - markers
    return len(known) > 1


def _special(tokenizer: BundleTokenizer, reference: Any) -> list[str]:
    """Return every special and added token of both."""
    added = [token.content for token in (*tokenizer.added_tokens.values(), *reference.added_tokens_decoder.values())]
    return list(dict.fromkeys([*added, *reference.all_special_tokens, *tokenizer.special_tokens.values()]))


def _states(tokenizer: BundleTokenizer, reference: Any, parts: Sequence[str]) -> Iterator[Difference]:
    """Compare what the two hold, as far as it is all that decides."""
    named: dict[str, str] = reference.special_tokens_map
    for name in {**named, **tokenizer.special_tokens}:
        found, wanted = tokenizer.special_tokens.get(name), named.get(name)
        if found != wanted:
            yield Difference(f"its {name}", found, wanted)
    vocabulary, own = tokenizer.backend.get_vocab(), reference.get_vocab()
    if vocabulary != own:
        token = min({*vocabulary.items()} ^ {*own.items()})[0]
        yield Difference(f"the id of {token!r}", vocabulary.get(token), own.get(token))
    backend = getattr(reference, "backend_tokenizer", None)
    if backend is None:
        return
    for part in parts:
        mine, theirs = _state(getattr(tokenizer.backend, part)), _state(getattr(backend, part))
        if mine != theirs:
            yield Difference(f"its {part}", *_where_they_part(mine, theirs))
    flags, stated = _flags(tokenizer.backend), _flags(backend)
    for identifier in {**stated, **flags}:
        if flags.get(identifier) != stated.get(identifier):
            yield Difference(f"added token {identifier}", flags.get(identifier), stated.get(identifier))


def _state(part: Any) -> str:
    state: bytes = b"" if part is None else part.__getstate__()
    return state.decode()


def _flags(backend: Tokenizer) -> dict[int, Any]:
    return {identifier: token.__getstate__() for identifier, token in backend.get_added_tokens_decoder().items()}


def _texts(tokenizer: BundleTokenizer, reference: Any, texts: Sequence[str]) -> Iterator[Difference]:
    for text in texts:
        for special in (True, False):
            found, wanted = _own_ids(tokenizer, text, special=special), _ids(reference, text, special=special)
            if found != wanted:
                without = "" if special else ", without special tokens around it,"
                yield Difference(f"the encoding of {_shown(text)}{without}", found, wanted)
            elif isinstance(found, list):
                yield from _decodings(tokenizer, reference, found)


def _own_ids(tokenizer: BundleTokenizer, text: str, *, special: bool) -> list[int] | str:
    try:
        return tokenizer.encode(text, add_special_tokens=special)
    except TokenizerFileError:
        return FAILED


def _ids(reference: Any, text: str, *, special: bool) -> list[int] | str:
    """Return transformers' ids; the backend may have no token for what it does not know, and then says so."""
    ids: list[int] | str = _attempt(partial(reference.encode, text, add_special_tokens=special))
    return ids


def _attempt(function: Callable[[], Any]) -> Any:
    """Return what transformers answers, or that it fails: libraries below it, and the code of templates, raise all."""
    try:
        return function()
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        return FAILED


def _vocabulary_texts(tokenizer: BundleTokenizer, reference: Any) -> Iterator[Difference]:
    """Compare the text of tokens that no text has side by side."""
    ids = sorted(tokenizer.backend.get_vocab().values())
    spread = ids[:: max(1, len(ids) // SAMPLE)]
    for start in range(0, len(spread), 16):
        yield from _decodings(tokenizer, reference, spread[start : start + 16])


def _decodings(tokenizer: BundleTokenizer, reference: Any, ids: list[int]) -> Iterator[Difference]:
    for skip in (True, False):
        found = tokenizer.decode(ids, skip_special_tokens=skip)
        wanted = _attempt(partial(reference.decode, ids, skip_special_tokens=skip))
        if found != wanted:
            yield Difference(f"the text of the tokens {_shown(ids)}", found, wanted)
    whole = tokenizer.decode(ids)
    stream = tokenizer.stream()
    streamed = "".join([*map(stream.push, ids), stream.flush()])
    if streamed != whole and REPLACEMENT not in whole:  # see TextStream about bytes that are no text
        yield Difference(f"the streamed text of the tokens {_shown(ids)}", streamed, whole)


def _chats(tokenizer: BundleTokenizer, reference: Any, conversations: Sequence[Conversation]) -> Iterator[Difference]:
    for conversation in conversations:
        for opened in (True, False):
            yield from _renderings(tokenizer, reference, conversation, opened=opened)
    for name in tokenizer.special_tokens:
        with _without(tokenizer, reference, name):
            yield from _renderings(tokenizer, reference, CONVERSATIONS[3], opened=True)


def _renderings(
    tokenizer: BundleTokenizer, reference: Any, conversation: Conversation, *, opened: bool
) -> Iterator[Difference]:
    for _ in range(2):  # the clock that templates may read may have moved on between the two
        found = _rendered(tokenizer, conversation, opened=opened) or FAILED
        wanted = _rendered_there(reference, conversation, opened=opened)
        if found == wanted:
            break
    if found != wanted:
        found, wanted = _where_they_part(found, wanted)
        yield Difference(f"the chat of {_shown(conversation.messages[-1]['content'])}", found, wanted)
    elif found != FAILED:
        ids = tokenizer.encode(found, add_special_tokens=False)
        own = _ids(reference, found, special=False)
        if ids != own:
            yield Difference(f"the encoding of the chat {_shown(found)}", ids, own)


def _rendered(tokenizer: BundleTokenizer, conversation: Conversation, *, opened: bool) -> str:
    try:
        return tokenizer.render_chat(conversation.messages, add_generation_prompt=opened, **conversation.variables)
    except (ChatTemplateError, NoChatTemplateError):
        return FAILED


def _rendered_there(reference: Any, conversation: Conversation, *, opened: bool) -> str:
    settings = {"tokenize": False, "add_generation_prompt": opened, **conversation.variables}
    text: str = _attempt(partial(reference.apply_chat_template, list(conversation.messages), **settings))
    return text or FAILED  # an empty template is none


@contextlib.contextmanager
def _without(tokenizer: BundleTokenizer, reference: Any, name: str) -> Iterator[None]:
    """Take a special token away from both while the body runs."""
    kept, own = tokenizer.special_tokens, getattr(reference, name)
    tokenizer.special_tokens = {key: text for key, text in kept.items() if key != name}
    setattr(reference, name, None)
    try:
        yield
    finally:
        tokenizer.special_tokens = kept
        setattr(reference, name, own)


def _where_they_part(found: str, wanted: str) -> tuple[str, str]:
    at = next(
        (at for at, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), min(len(found), len(wanted))
    )
    start = max(at - 20, 0)
    return found[start:], wanted[start:]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
