"""What transformers' ``generate`` does to the logits before it chooses a token, where settings of a model ask for it.

Definitions: ``transformers.generation.logits_process`` (5.23), whose order ``PROCESSORS`` keeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

Logits = np.ndarray[Any, np.dtype[np.float32]]
Process = Callable[[Logits, Sequence[int]], Logits]
"""From float32 logits [vocab] and all tokens so far to the logits that the next token is chosen from."""

NEVER: Final = np.float32(-np.inf)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One answer that is asked for.

    Attributes:
        prompt: its tokens.
        most: tokens of prompt and answer together, at most.
        stop_tokens: tokens that end it.
        settings: settings by transformers' names; see :class:`~edgellm_core.bundle.manifest.RuntimeRecord`.
    """

    prompt: Sequence[int]
    most: int
    stop_tokens: Collection[int]
    settings: Mapping[str, Any]


def make_processors(request: Request) -> list[Process]:
    """Return what the settings of a request ask for, in transformers' order."""
    settings = request.settings
    return [make(settings[name], request) for name, (_, _, make) in PROCESSORS.items() if name in settings]


def penalize_repetition(logits: Logits, history: Sequence[int], penalty: float) -> Logits:
    """Return logits where each token of ``history`` is less likely by ``penalty``."""
    if penalty == 1 or not history:
        return logits
    seen = _inside(np.unique(np.asarray(history)), logits)
    result: Logits = logits.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        result[seen] = np.where(result[seen] < 0, result[seen] * penalty, result[seen] / penalty)
    return result


def _sequence_bias(value: Sequence[Any], request: Request) -> Process:
    del request
    biases = {tuple(tokens): float(bias) for tokens, bias in value}

    def process(logits: Logits, history: Sequence[int]) -> Logits:
        bias = np.zeros_like(logits)
        for (*before, last), amount in biases.items():
            if last < len(logits) and list(history[len(history) - len(before) :]) == before:
                bias[last] += np.float32(amount)
        result: Logits = logits + bias
        return result

    return process


def _bad_words(value: Sequence[Sequence[int]], request: Request) -> Process:
    ends = [[token] for token in request.stop_tokens]
    return _sequence_bias([(word, -np.inf) for word in value if list(word) not in ends], request)


def _encoder_repetition(value: float, request: Request) -> Process:
    return lambda logits, _history: penalize_repetition(logits, request.prompt, 1 / value)


def _repetition(value: float, request: Request) -> Process:
    del request
    return lambda logits, history: penalize_repetition(logits, history, value)


def _repeated(text: Sequence[int], history: Sequence[int], size: int) -> list[int]:
    """Return the tokens that followed in ``text`` wherever it held the last ``size - 1`` tokens of ``history``."""
    if len(history) < size - 1:
        return []
    prefix = list(history[len(history) - size + 1 :])
    starts = range(len(text) - size + 1)
    return [text[start + size - 1] for start in starts if list(text[start : start + size - 1]) == prefix]


def _no_repeat(value: int, request: Request) -> Process:
    del request
    return lambda logits, history: _without(logits, _repeated(history, history, value))


def _encoder_no_repeat(value: int, request: Request) -> Process:
    return lambda logits, history: _without(logits, _repeated(request.prompt, history, value))


def _min_length(value: int, request: Request) -> Process:
    return lambda logits, history: _without(logits, request.stop_tokens if len(history) < value else ())


def _min_new_tokens(value: int, request: Request) -> Process:
    return _min_length(len(request.prompt) + value, request)


def _forced_bos(value: int, request: Request) -> Process:
    del request
    return lambda logits, history: _only(logits, [value]) if len(history) == 1 else logits


def _forced_eos(value: int | Sequence[int], request: Request) -> Process:
    tokens = [value] if isinstance(value, int) else list(value)
    return lambda logits, history: _only(logits, tokens) if len(history) == request.most - 1 else logits


def _remove_invalid(value: bool, request: Request) -> Process:
    del value, request
    limits = np.finfo(np.float32)
    return lambda logits, _history: np.nan_to_num(logits, nan=0.0, posinf=limits.max, neginf=limits.min)


def _exponential_decay(value: Sequence[Any], request: Request) -> Process:
    start, factor = len(request.prompt) + int(value[0]), float(value[1])

    def process(logits: Logits, history: Sequence[int]) -> Logits:
        if len(history) <= start:
            return logits
        ends = _inside(np.asarray(list(request.stop_tokens), np.int64), logits)
        result: Logits = logits.copy()
        finite = np.isfinite(result[ends])
        with np.errstate(over="ignore", invalid="ignore"):
            gain = np.abs(result[ends]) * np.float32(factor ** (len(history) - start) - 1)
            result[ends] += np.where(finite, gain, np.float32(0))
        return result

    return process


def _suppress(value: Sequence[int], request: Request) -> Process:
    del request
    return lambda logits, _history: _without(logits, value)


def _begin_suppress(value: Sequence[int], request: Request) -> Process:
    forced = "forced_bos_token_id" in request.settings and len(request.prompt) == 1
    begin = len(request.prompt) + (1 if forced else 0)
    return lambda logits, history: _without(logits, value if len(history) == begin else ())


def _without(logits: Logits, tokens: Collection[int]) -> Logits:
    """Return logits with some tokens made impossible."""
    if not tokens:
        return logits
    result: Logits = logits.copy()
    result[_inside(np.asarray(list(tokens), np.int64), logits)] = NEVER
    return result


def _only(logits: Logits, tokens: Sequence[int]) -> Logits:
    """Return logits with all other tokens made impossible."""
    result: Logits = np.full_like(logits, NEVER)
    result[tokens] = 0
    return result


def _inside(tokens: np.ndarray[Any, Any], logits: Logits) -> np.ndarray[Any, Any]:
    """Return the tokens that have a logit; some models have fewer logits than embeddings."""
    return tokens[(tokens >= 0) & (tokens < len(logits))]


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_token, value))


def _are_integers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, int) for one in value)  # Whisper's -1 is none of the tokens


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_are_tokens, value))


def _is_pair(value: Any, first: Callable[[Any], bool], second: Callable[[Any], bool]) -> bool:
    match value:
        case [one, other]:
            return first(one) and second(other)
        case _:
            return False


def _are_biases(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_pair(one, _are_tokens, _is_number) for one in value)


def _is_decay(value: Any) -> bool:
    return _is_pair(value, _is_token, _is_positive)


PROCESSORS: Final[Mapping[str, tuple[Callable[[Any], bool], str, Callable[[Any, Request], Process]]]] = {
    "sequence_bias": (_are_biases, "pairs of a list of token ids and a number", _sequence_bias),
    "encoder_repetition_penalty": (_is_positive, "a number above 0", _encoder_repetition),
    "repetition_penalty": (_is_positive, "a number above 0", _repetition),
    "no_repeat_ngram_size": (_is_token, "a whole number", _no_repeat),
    "encoder_no_repeat_ngram_size": (_is_token, "a whole number", _encoder_no_repeat),
    "bad_words_ids": (_are_words, "lists of token ids", _bad_words),
    "min_length": (_is_token, "a whole number", _min_length),
    "min_new_tokens": (_is_token, "a whole number", _min_new_tokens),
    "forced_bos_token_id": (_is_token, "a token id", _forced_bos),
    "forced_eos_token_id": (lambda value: _is_token(value) or _are_tokens(value), "token ids", _forced_eos),
    "remove_invalid_values": (lambda value: isinstance(value, bool), "true or false", _remove_invalid),
    "exponential_decay_length_penalty": (_is_decay, "a number of tokens and a factor", _exponential_decay),
    "suppress_tokens": (_are_integers, "a list of token ids", _suppress),
    "begin_suppress_tokens": (_are_integers, "a list of token ids", _begin_suppress),
}
"""Setting → what its value must be (test, and in words), and what makes a processor of it; in transformers' order."""
