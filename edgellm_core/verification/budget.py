"""How much of a model is compared at a time, so that a budget of main memory is held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgellm_core.checkpoint.machine import available_memory
from edgellm_core.memory import return_large_blocks
from edgellm_core.verification.errors import ComparisonMemoryError
from edgellm_core.verification.parts import PART_BYTES, plan_parts, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellm_core.events import Reporter
    from edgellm_core.verification.original_weights import OriginalWeights
    from edgellm_core.verification.parts import Part
    from edgellm_core.verification.subject import Subject

FIXED_BYTES: Final = 900 * 2**20
"""What torch, transformers, ONNX Runtime, activations and small weights take besides the weights of a part."""

BYTES_PER_BYTE: Final = 2.0
"""Bytes that one byte of a part's weights in float32 takes at most: in the graph they lie as they are stored and,
folded, in float32; in the original as the checkpoint has them and in float32."""


def choose_parts(
    subject: Subject, weights: OriginalWeights, *, max_memory: int | None, report: Reporter
) -> tuple[Part, ...]:
    """Return the parts in which a model is compared.

    Args:
        subject: what is compared.
        weights: the original, for the sizes of its layers.
        max_memory: budget in bytes; None for what is free.
        report: told where the model can't be compared part by part.

    Raises:
        ComparisonMemoryError: one part, or the whole model where it can't be cut, takes more than the budget.
    """
    return_large_blocks()
    budget = available_memory() if max_memory is None else max_memory
    sizes = weights.unit_bytes()
    obstacle = find_obstacle(subject, weights)
    if obstacle:
        needed = needed_bytes(weights.total_bytes())
        if needed > budget:
            raise ComparisonMemoryError(
                "the whole model", needed, budget, reason=obstacle, given=max_memory is not None
            )
        report.note(f"Comparing the whole model at once, since {obstacle}.")
        return whole(subject.depth)
    largest = min(PART_BYTES, int((budget - FIXED_BYTES) / BYTES_PER_BYTE))
    needed = needed_bytes(_largest_unit(sizes))
    if max_memory is not None and needed > budget:
        raise ComparisonMemoryError("its largest layer", needed, budget, given=True)
    return plan_parts(sizes, largest=largest)


def find_obstacle(subject: Subject, weights: OriginalWeights) -> str:
    """Return why a model can't be compared part by part; empty where it can."""
    if not weights.depth or len({id(layer) for layer in weights.layers}) != subject.depth:
        return "its decoder layers are no list"
    if not subject.names_hidden_states:
        return "its graph does not name the hidden states between its layers"
    return ""


def whole_obstacle(weights: OriginalWeights, *, max_memory: int | None) -> str:
    """Return why the whole original can't be held in memory; empty where it can."""
    budget = available_memory() if max_memory is None else max_memory
    needed = FIXED_BYTES + weights.total_bytes()
    kind = "free" if max_memory is None else "allowed"
    return "" if needed <= budget else f"it takes {needed / 2**30:.1f} GiB of {budget / 2**30:.1f} GiB {kind}"


def needed_bytes(part_bytes: int) -> int:
    """Return the peak memory of a comparison whose largest part has so many bytes of weights in float32."""
    return FIXED_BYTES + int(part_bytes * BYTES_PER_BYTE)


def _largest_unit(sizes: Sequence[int]) -> int:
    return max(sizes[0] + sizes[1], *sizes[2:])
