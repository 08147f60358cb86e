"""What the gate runs: cases of several steps, planned once and then replayed on the original and on the graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.runtime.generate import left_pad

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgellm_core.verification.prompts import Prompt

Ids = np.ndarray[Any, np.dtype[np.int64]]
Logits = np.ndarray[Any, np.dtype[np.float32]]

DECODE_STEPS: Final = 16
"""Greedy steps over the KV cache after the first prompt."""

EXTRA_STEPS: Final = 4
"""Greedy steps after a padded batch, a chunked prompt, or spread positions."""

FARTHEST_POSITION: Final = 8192
"""Largest position of the case with spread positions; float32 angles stay exact to about 1e-3 there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One run from an empty cache.

    Attributes:
        name: what is checked.
        prompts: index of the prompt of each row, from 0.
        rows: token ids of each row.
        chunks: new tokens of each step of the prefill; they add up to the longest row.
        decode: greedy steps after it.
        stride: distance of two positions.
    """

    name: str
    prompts: tuple[int, ...]
    rows: tuple[Prompt, ...]
    chunks: tuple[int, ...]
    decode: int = 0
    stride: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class StepInputs:
    """Inputs of one call.

    Attributes:
        label: for example ``prefill`` or ``decode step 3``.
        input_ids: int64 [batch, seq].
        attention_mask: int64 [batch, past + seq].
        position_ids: int64 [batch, seq].
        chooses: whether greedy decoding chooses a token from the last position.
    """

    label: str
    input_ids: Ids
    attention_mask: Ids
    position_ids: Ids
    chooses: bool

    @property
    def real(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Boolean [batch, seq]: tokens, not padding."""
        seq = self.input_ids.shape[1]
        return self.attention_mask[:, -seq:].astype(bool)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One call with the original's answer.

    Attributes:
        inputs: what went in.
        logits: for each row float32 [real positions, vocab].
    """

    inputs: StepInputs
    logits: tuple[Logits, ...]


@dataclass(kw_only=True, slots=True)
class Recording:
    """A case as the original ran it.

    Attributes:
        case: the case.
        steps: its steps in order.
    """

    case: Case
    steps: list[Step] = field(default_factory=list)

    def label(self, step: int, row: int) -> str:
        """Return check, step and prompt in words: ``'padded batch', decode step 2, prompt 4``."""
        return f"{self.case.name!r}, {self.steps[step].inputs.label}, prompt {self.case.prompts[row] + 1}"


def plan_cases(prompts: Sequence[Prompt], *, one_token: bool = False) -> list[Case]:
    """Return the cases, from the simplest to the most special, so that the first that fails tells the most.

    Each prompt alone, the first followed by ``DECODE_STEPS`` steps; the shortest and the longest as a batch with left
    padding; the longest in two chunks.

    Args:
        prompts: at least two, of different lengths.
        one_token: the graph takes one token a step. It reads a prompt in chunks exactly as it reads it whole, so that
            case is left out; some originals of such graphs don't carry their states from chunk to chunk (Mamba in
            transformers 5.23).
    """
    cases = [
        Case(
            name="prompt alone",
            prompts=(index,),
            rows=(prompt,),
            chunks=(len(prompt),),
            decode=DECODE_STEPS if index == 0 else 0,
        )
        for index, prompt in enumerate(prompts)
    ]
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    pair = by_length[0], by_length[-1]
    rows = prompts[pair[0]], prompts[pair[1]]
    length = len(rows[1])
    cases.append(Case(name="padded batch", prompts=pair, rows=rows, chunks=(length,), decode=EXTRA_STEPS))
    if length > 3 and not one_token:
        chunks = (length // 2, length - length // 2)
        cases.append(Case(name="chunked prompt", prompts=pair[1:], rows=rows[1:], chunks=chunks, decode=EXTRA_STEPS))
    return cases


def spread_case(prompts: Sequence[Prompt], *, context: int | None) -> Case | None:
    """Return the case whose positions are spread over the context: the second shortest prompt, and decode steps.

    RoPE scaling changes frequencies that the few positions of a short prompt hardly turn. It is run on the first layers
    only: so far from what a model was trained on, rounding grows through the layers (on SmolLM2-135M 25 times more than
    in a prompt: 9e-5 in float32 and 4e-2 in float16 after 30 layers, 8e-7 and 5e-4 after two).

    Args:
        prompts: at least two.
        context: longest sequence that the model was made for; None if unknown.

    Returns:
        None where the context is too short to spread anything.
    """
    index = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))[1]
    prompt = prompts[index]
    stride = min(context or FARTHEST_POSITION, FARTHEST_POSITION) // (len(prompt) + EXTRA_STEPS)
    if stride < 2:
        return None
    return Case(
        name="spread positions",
        prompts=(index,),
        rows=(prompt,),
        chunks=(len(prompt),),
        decode=EXTRA_STEPS,
        stride=stride,
    )


def prefill_inputs(case: Case) -> Iterator[StepInputs]:
    """Yield the steps that read the prompts."""
    input_ids, attention_mask, position_ids = left_pad(case.rows)
    start = 0
    for number, size in enumerate(case.chunks, 1):
        end = start + size
        yield StepInputs(
            label="prefill" if len(case.chunks) == 1 else f"prefill chunk {number}",
            input_ids=input_ids[:, start:end],
            attention_mask=attention_mask[:, :end],
            position_ids=position_ids[:, start:end] * case.stride,
            chooses=number == len(case.chunks),
        )
        start = end


def decode_inputs(case: Case, previous: StepInputs, tokens: Sequence[int], number: int) -> StepInputs:
    """Return the step that reads one chosen token for each row.

    Args:
        case: the case.
        previous: the step before.
        tokens: the original's greedy token of each row.
        number: number of the step, from 1.
    """
    ones = np.ones((len(tokens), 1), np.int64)
    return StepInputs(
        label=f"decode step {number}",
        input_ids=np.array(tokens, np.int64)[:, None],
        attention_mask=np.concatenate([previous.attention_mask, ones], axis=1),
        position_ids=previous.position_ids[:, -1:] + case.stride,
        chooses=True,
    )
