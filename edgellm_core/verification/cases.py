"""What the gate runs: cases of several steps, planned once and then replayed on the original and on the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.runtime.generate import left_pad

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgellm_core.verification.prompts import Prompt

Ids = np.ndarray[Any, np.dtype[np.int64]]
Logits = np.ndarray[Any, np.dtype[np.float32]]

DECODE_STEPS: Final = 16
"""Steps of one token over the KV cache after the first prompt."""

EXTRA_STEPS: Final = 4
"""Steps of one token after a padded batch, a chunked prompt, or spread positions."""

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
        following: tokens that each row reads after it, one at a time; equally many in all rows.
        stride: distance of two positions.
        layers: how many decoder layers are compared, by the hidden state after them; None for all, by the logits.
    """

    name: str
    prompts: tuple[int, ...]
    rows: tuple[Prompt, ...]
    chunks: tuple[int, ...]
    following: tuple[Prompt, ...] = ()
    stride: int = 1
    layers: int | None = None


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


def plan_cases(prompts: Sequence[Prompt], *, one_token: bool = False) -> list[Case]:
    """Return the cases, from the simplest to the most special, so that the first that fails tells the most.

    Each prompt alone, the first followed by ``DECODE_STEPS`` tokens one at a time; the shortest and the longest as a
    batch with left padding; the longest in two chunks. The tokens that follow are those of another prompt: what is
    compared at each of them is the whole distribution, whichever token is taken.

    Args:
        prompts: at least two, of different lengths.
        one_token: the graph takes one token a step, so the original does too: the code that transformers has for one
            token and that for many differ by more than rounding in some recurrent models (nemotron_h, zamba2).
    """
    cases = [
        Case(
            name="prompt alone",
            prompts=(index,),
            rows=(prompt,),
            chunks=_chunks(len(prompt), 1, one_token=one_token),
            following=(_following(prompts, index, DECODE_STEPS),) if index == 0 else (),
        )
        for index, prompt in enumerate(prompts)
    ]
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    pair = by_length[0], by_length[-1]
    rows = prompts[pair[0]], prompts[pair[1]]
    length = len(rows[1])
    after = tuple(_following(prompts, index, EXTRA_STEPS) for index in pair)
    cases.append(Case(name="padded batch", prompts=pair, rows=rows, chunks=(length,), following=after))
    if length > 3 and not one_token:
        chunks = _chunks(length, 2, one_token=False)
        cases.append(Case(name="chunked prompt", prompts=pair[1:], rows=rows[1:], chunks=chunks, following=after[1:]))
    return cases


def _chunks(length: int, number: int, *, one_token: bool) -> tuple[int, ...]:
    if one_token:
        return (1,) * length
    return (length,) if number == 1 else (length // 2, length - length // 2)


def _following(prompts: Sequence[Prompt], index: int, count: int) -> Prompt:
    """Return ``count`` tokens of the prompts after one, from the first on."""
    others = [token for prompt in (*prompts[index + 1 :], *prompts[: index + 1]) for token in prompt]
    return tuple(others[position % len(others)] for position in range(count))


def spread_case(prompts: Sequence[Prompt], *, context: int | None, layers: int, one_token: bool = False) -> Case | None:
    """Return the case whose positions are spread over the context: the second shortest prompt.

    RoPE scaling changes frequencies that the few positions of a short prompt hardly turn. It is compared after the
    first layers: so far from what a model was trained on, rounding grows through the layers (on SmolLM2-135M 25 times
    more than in a prompt: 9e-5 in float32 after 30 layers, 8e-7 after two).

    Args:
        prompts: at least two.
        context: longest sequence that the model was made for; None if unknown.
        layers: decoder layers after which it is compared.
        one_token: the graph takes one token a step.

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
        chunks=_chunks(len(prompt), 1, one_token=one_token),
        following=(_following(prompts, index, EXTRA_STEPS),),
        stride=stride,
        layers=layers,
    )


def alone(case: Case) -> list[Case]:
    """Return each row of a batch as a case of its own, token by token."""
    return [
        Case(
            name=case.name,
            prompts=(prompt,),
            rows=(row,),
            chunks=(1,) * len(row),
            following=case.following[index : index + 1],
            stride=case.stride,
        )
        for index, (prompt, row) in enumerate(zip(case.prompts, case.rows, strict=True))
    ]


def case_steps(case: Case) -> tuple[StepInputs, ...]:
    """Return the steps of a case in order."""
    steps = list(prefill_inputs(case))
    for number in range(1, 1 + (len(case.following[0]) if case.following else 0)):
        steps.append(decode_inputs(case, steps[-1], [tokens[number - 1] for tokens in case.following], number))
    return tuple(steps)


def label(case: Case, step: StepInputs, row: int) -> str:
    """Return check, step and prompt in words: ``'padded batch', decode step 2, prompt 4``."""
    return f"{case.name!r}, {step.label}, prompt {case.prompts[row] + 1}"


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
    """Return the step that reads one token for each row.

    Args:
        case: the case.
        previous: the step before.
        tokens: one of each row.
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
