"""Chooses between comparing the whole model and its first layers, by the memory that each takes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from edgellm_core.checkpoint.dimensions import read_dimensions
from edgellm_core.checkpoint.estimate import estimate_stages, stage
from edgellm_core.checkpoint.machine import available_memory
from edgellm_core.errors import UnknownNameError
from edgellm_core.quantization.layout import read_layout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.events import Reporter
    from edgellm_core.verification.subject import Mode

MODES: Final[Mapping[str, Mode | None]] = {"auto": None, "full": "full", "layers": "layers", "off": "off"}
"""Value of ``--verify`` → mode; None where the memory decides."""


def choose_mode(
    requested: str, checkpoint: Checkpoint, precision: str, *, max_memory: int | None = None, report: Reporter
) -> Mode:
    """Return how to verify; ``auto`` is ``full`` where its estimate fits the memory, else ``layers``.

    Args:
        requested: ``auto``, ``full``, ``layers`` or ``off``.
        checkpoint: the original.
        precision: precision of the graph.
        max_memory: budget in bytes; None for what is free.
        report: told the choice of ``auto`` with its numbers.

    Raises:
        UnknownNameError: ``requested`` is none of them.
    """
    if requested not in MODES:
        raise UnknownNameError("verification mode", requested, MODES)
    fixed = MODES[requested]
    if fixed is not None:
        return fixed
    fits, numbers = whole_model_fits(checkpoint, precision, max_memory=max_memory)
    if fits:
        report.note(f"Comparing the whole model, which {numbers}.")
        return "full"
    report.note(f"Comparing the first layers and the head only, since the whole model {numbers}.")
    return "layers"


def _weight_shapes(checkpoint: Checkpoint) -> list[tuple[int, ...]]:
    """Return the shapes of all weights, unpacked: the original is compared with dequantized ones."""
    layout = read_layout(checkpoint.directory, checkpoint.config, checkpoint.tensors)
    forms = {f"{module}.weight": form for module, form in layout.linears.items()} if layout else {}
    entries = checkpoint.tensors.values()
    return [forms[entry.name].dimensions(entry.shape) if entry.name in forms else entry.shape for entry in entries]


def whole_model_fits(checkpoint: Checkpoint, precision: str, *, max_memory: int | None) -> tuple[bool, str]:
    """Return whether the whole original, and then the whole graph, fit in memory, and the numbers in words.

    Args:
        checkpoint: the original.
        precision: precision of the graph.
        max_memory: budget in bytes; None for what is free.
    """
    shapes = _weight_shapes(checkpoint)
    parameters = sum(map(math.prod, shapes))
    stages = estimate_stages(parameters, read_dimensions(checkpoint.config, shapes), precision=precision)
    needed = stage(stages, "verify full").ram
    budget = available_memory() if max_memory is None else max_memory
    numbers = f"takes up to {_gib(needed)} of {_gib(budget)} {'free' if max_memory is None else 'allowed'}"
    return needed <= budget, numbers


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
