"""Prefill and decode over a :class:`StepSession`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgellm_core.runtime.errors import EmptyPromptError, UnknownTokenError
from edgellm_core.runtime.logits_processors import Request, make_processors
from edgellm_core.runtime.sampling import Sampler

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from edgellm_core.bundle import RuntimeRecord

    ChooseToken = Callable[[np.ndarray[Any, np.dtype[np.float32]], Sequence[int]], int]

Ids = np.ndarray[Any, np.dtype[np.int64]]


class StepSession(Protocol):
    """What reads tokens step by step, for example a :class:`~edgellm_core.runtime.session.DecoderSession`."""

    @property
    def vocab_size(self) -> int | None:
        """Number of token ids; None where that is not known."""

    def initial_states(self, batch: int) -> Any:
        """Return the states before the first token."""

    def run(self, input_ids: Ids, attention_mask: Ids, position_ids: Ids, states: Any) -> tuple[Any, Any]:
        """Return float32 logits [batch, seq, vocab] of one step, and the states for the next one."""


@dataclass(kw_only=True, slots=True)
class Timings:
    """How long a generation took; filled in while it runs.

    Attributes:
        prompt_tokens: tokens of the prompt.
        prefill_seconds: from the call to the first token.
        new_tokens: tokens chosen, without the stop token.
        decode_steps: steps after the first token.
        decode_seconds: time that these steps took, without what the caller did between them.
    """

    prompt_tokens: int = 0
    prefill_seconds: float = 0.0
    new_tokens: int = 0
    decode_steps: int = 0
    decode_seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Decode steps per second; 0 where there was none."""
        return self.decode_steps / self.decode_seconds if self.decode_steps else 0.0


def left_pad(sequences: Sequence[Sequence[int]], pad_id: int = 0) -> tuple[Ids, Ids, Ids]:
    """Return sequences of different lengths as one batch whose last tokens are aligned.

    Args:
        sequences: token ids; none of them empty.
        pad_id: id that fills the left; any id of the vocabulary.

    Returns:
        ``input_ids``, ``attention_mask`` (0 for padding) and ``position_ids`` (cumsum(mask) - 1, at least 0), each
        int64 [batch, longest].

    Raises:
        EmptyPromptError: a sequence is empty.
    """
    if not sequences or not all(sequences):
        raise EmptyPromptError
    longest = max(map(len, sequences))
    input_ids = np.full((len(sequences), longest), pad_id, np.int64)
    attention_mask = np.zeros_like(input_ids)
    for row, sequence in enumerate(sequences):
        input_ids[row, longest - len(sequence) :] = sequence
        attention_mask[row, longest - len(sequence) :] = 1
    return input_ids, attention_mask, np.maximum(np.cumsum(attention_mask, axis=1) - 1, 0)


def generate(
    session: StepSession,
    input_ids: Sequence[int],
    *,
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
    reread_at: int | None = None,
    sampler: ChooseToken | None = None,
    timings: Timings | None = None,
) -> Iterator[int]:
    """Yield the tokens of one answer as they are chosen, without the stop token.

    Args:
        session: mostly a loaded graph.
        input_ids: the prompt; at least one token.
        max_new_tokens: most tokens to choose.
        stop_ids: tokens that end the answer.
        reread_at: number of tokens at which the states are dropped and all tokens are read again; None for never.
        sampler: chooses a token from float32 logits [vocab] and all tokens so far; greedy by default.
        timings: filled in while the generator runs.

    Raises:
        EmptyPromptError: ``input_ids`` is empty.
        UnknownTokenError: an id is outside the vocabulary.
    """
    require_known(input_ids, session.vocab_size)
    sampler = sampler or Sampler()
    timings = timings if timings is not None else Timings()
    timings.prompt_tokens = len(input_ids)
    history = list(input_ids)
    began = time.perf_counter()
    step_ids, attention_mask, position_ids = left_pad([history])
    states: Any = session.initial_states(1)
    for step in range(max_new_tokens):
        logits, states = session.run(step_ids, attention_mask, position_ids, states)
        token = sampler(logits[0, -1], history)
        if step == 0:
            timings.prefill_seconds = time.perf_counter() - began
        else:
            timings.decode_steps += 1
            timings.decode_seconds += time.perf_counter() - began
        if token in stop_ids:
            return
        timings.new_tokens += 1
        yield token
        began = time.perf_counter()
        history.append(token)
        step_ids, attention_mask, position_ids = left_pad([history])
        if len(history) == reread_at:
            states = session.initial_states(1)
        else:
            step_ids, position_ids = step_ids[:, -1:], position_ids[:, -1:]


def answer(
    session: StepSession,
    prompt: Sequence[int],
    runtime: RuntimeRecord,
    *,
    max_new_tokens: int,
    sampler: ChooseToken | None = None,
    timings: Timings | None = None,
) -> Iterator[int]:
    """Yield the tokens of one answer as transformers' ``generate`` would choose them, without the stop token.

    Args:
        session: mostly a loaded graph.
        prompt: its tokens; at least one.
        runtime: what has to be done beside running the graph.
        max_new_tokens: most tokens to choose.
        sampler: chooses a token from what the model's settings left of the logits; greedy by default.
        timings: filled in while the generator runs.

    Raises:
        EmptyPromptError: ``prompt`` is empty.
    """
    request = Request(
        prompt=tuple(prompt),
        most=len(prompt) + max_new_tokens,
        stop_tokens=runtime.stop_tokens,
        settings=runtime.settings,
    )
    processors, choose = make_processors(request), sampler or Sampler()

    def sample(logits: np.ndarray[Any, np.dtype[np.float32]], history: Sequence[int]) -> int:
        for process in processors:
            logits = process(logits, history)
        return choose(logits, history)

    return generate(
        session,
        prompt,
        max_new_tokens=max_new_tokens,
        stop_ids=runtime.stop_tokens,
        reread_at=runtime.reread_at,
        sampler=sample,
        timings=timings,
    )


def require_known(input_ids: Iterable[int], vocab_size: int | None) -> None:
    """Refuse ids without a row of the embedding: negative ones count from its end, too large ones end in a traceback.

    Args:
        input_ids: tokens.
        vocab_size: rows of the embedding; None where they are not known.

    Raises:
        UnknownTokenError: an id is outside.
    """
    if vocab_size is not None:
        unknown = next((identifier for identifier in input_ids if not 0 <= identifier < vocab_size), None)
        if unknown is not None:
            raise UnknownTokenError(int(unknown), vocab_size)
