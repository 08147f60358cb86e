"""The runtime's table of cosines and sines against that of the original, number by number over the whole context.

The parity gate runs graphs over the table, at few positions. Here the original's own modules make theirs.
"""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.runtime.paged.rope import rope_of
from edgellm_core.verification.errors import RopeTablesDifferError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import nn

    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.contract import ModelFamily
    from edgellm_core.runtime.paged.rope import Rope

Array = np.ndarray[Any, Any]

CHUNK: Final = 4096
"""Positions that are compared at once."""

ROUNDING: Final = 2e-6
"""Largest difference of two numbers of the tables that have the same angle: float32 and its cosine, times a factor."""

ANGLE_ROUNDING: Final = 2.0**-20
"""Largest difference of two angles that are one, relative to them. Both sides compute in float32: some ten roundings of
2⁻²⁴ each on the way from ``rope_theta`` to an angle, and four last places of CUDA's ``powf``."""


def require_equal_tables(folder: Path, checkpoint: Checkpoint, family: ModelFamily) -> None:
    """Compare the table of the written config.json with the original's.

    Args:
        folder: where config.json of the runtime lies.
        checkpoint: the original.
        family: its family.

    Raises:
        RopeTablesDifferError: the runtime would compute other angles.
        RopeConfigError: it would compute none.
    """
    from edgellm_core.tracing.configuration import load_config

    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = load_config(
        checkpoint.directory, checkpoint.config, family, trust_remote_code=checkpoint.trust_remote_code
    )
    context = proven_context(written)
    rope = rope_of(written, context)
    for name, module in rotary_modules(config):
        compare_tables(name, rope, original_table(module, context))


def proven_context(written: Mapping[str, Any]) -> int:
    """Return how many positions the runtime has to compute as the original does.

    LongRoPE's one table is that of the original context, as long as the KV cache is no longer than it.
    """
    context = int(written["max_position_embeddings"])
    scaling = written["rope_scaling"] or {}
    return min(context, int(written["original_max_position_embeddings"])) if _is_longrope(scaling) else context


def _is_longrope(scaling: Mapping[str, Any]) -> bool:
    return bool(scaling.get("type", scaling.get("rope_type")) == "longrope")


def rotary_modules(config: Any) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of a transformers model that make cosines and sines of positions, by name.

    They are those with a buffer of frequencies whose forward takes positions, as all of transformers 5 are.
    """
    import torch

    from edgellm_core.tracing.weightless import build_weightless

    for name, module in build_weightless(config, torch.float32).named_modules():
        owns = any(buffer.endswith("inv_freq") for buffer in module._buffers)  # noqa: SLF001  # no public query
        if owns and "position_ids" in inspect.signature(module.forward).parameters:
            yield name, module


def original_table(module: nn.Module, context: int) -> Iterator[tuple[Array, Array]]:
    """Yield positions ``[n]`` and the original's table of them, float32 ``[n, rotary_dim]``: cosines, then sines."""
    import torch

    for start in range(0, context, CHUNK):
        positions = torch.arange(start, min(start + CHUNK, context))
        with torch.inference_mode():
            both = module(torch.zeros(1), positions[None])
        yield positions.numpy(), np.concatenate([one_of_each_pair(part[0].numpy()) for part in both], axis=1)


def one_of_each_pair(values: Array) -> Array:
    """Return ``[n, rotary_dim / 2]``: both channels of a pair have the same number, side by side or half a row apart.

    Tables that have it once already stay as they are.
    """
    half = values.shape[1] // 2
    if values.shape[1] % 2 == 0 and np.array_equal(values[:, :half], values[:, half:]):
        return values[:, :half]
    if values.shape[1] % 2 == 0 and np.array_equal(values[:, ::2], values[:, 1::2]):
        return values[:, ::2]
    return values


def compare_tables(name: str, rope: Rope, original: Iterator[tuple[Array, Array]]) -> None:
    """Compare the runtime's table with pieces of the original's.

    Args:
        name: of the original's module, for the error.
        rope: the runtime's.
        original: positions and their rows.

    Raises:
        RopeTablesDifferError: naming the position and the channel that differ most.
    """
    for positions, wanted in original:
        found = rope.cos_sin(positions)
        if found.shape != wanted.shape:
            raise RopeTablesDifferError(name, f"{found.shape[1]} columns instead of {wanted.shape[1]}")
        excess = np.abs(found - wanted) - allowed(rope, positions)
        if not excess.max() <= 0:  # NaN too
            row, column = np.unravel_index(int(np.argmax(excess)), excess.shape)
            pair = int(column) % (rope.rotary_dim // 2)
            function = "cosine" if column < rope.rotary_dim // 2 else "sine"
            raise RopeTablesDifferError(
                name,
                f"at position {int(positions[row])} the {function} of channel {pair} is {found[row, column]:.6g} "
                f"instead of {wanted[row, column]:.6g}",
            )


def allowed(rope: Rope, positions: Array) -> Array:
    """Return the largest difference that rounding explains, ``[n, rotary_dim]``."""
    angles = positions[:, None].astype(np.float64) * rope.multiplier / rope.divisor
    bound = (ROUNDING + ANGLE_ROUNDING * np.abs(angles)) * max(1.0, float(rope.factor))
    return np.concatenate([bound, bound], axis=1)
