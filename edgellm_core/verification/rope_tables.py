"""The runtime's table of cosines and sines against that of the original, number by number over the whole context.

The parity gate runs graphs over the table, at few positions. Here the original's own modules make theirs.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.runtime.paged.rope import rope_of, short_capacity
from edgellm_core.untrusted import read_json_object
from edgellm_core.verification.errors import RopeTablesDifferError

if TYPE_CHECKING:
    from collections.abc import Iterator
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

ANGLE_ROUNDING: Final = 2.0**-21
"""Largest difference of two angles that are one, relative to them: both sides compute in float32, some roundings of
2⁻²⁴ each on the way from ``rope_theta`` to an angle. Measured over 131,072 positions: the emulation differs by up to
0.4 of it from transformers, and from an H200 (CUDA's ``powf``, ``cosf`` and ``sinf``) by as much."""


def require_equal_tables(folder: Path, checkpoint: Checkpoint, family: ModelFamily) -> list[str]:
    """Compare the table of the written config.json with the original's.

    LongRoPE has two: that of a KV cache within the original context, and that of a larger one, which the original has
    for longer texts.

    Args:
        folder: where config.json of the runtime lies.
        checkpoint: the original.
        family: its family.

    Returns:
        What a user has to know.

    Raises:
        RopeTablesDifferError: the runtime would compute other angles.
        RopeConfigError: it would compute none.
    """
    from edgellm_core.tracing.configuration import load_config

    written = read_json_object(folder / "config.json")
    config = load_config(
        checkpoint.directory, checkpoint.config, family, trust_remote_code=checkpoint.trust_remote_code
    )
    context, short = int(written["max_position_embeddings"]), short_capacity(written)
    for name, module in rotary_modules(config):
        for length in lengths_with_tables(context, short):
            compare_tables(name, rope_of(written, length), original_table(module, length))
    return [] if short is None or short >= context else [_one_table(short)]


def lengths_with_tables(context: int, short: int | None) -> list[int]:
    """Return the lengths of text for which the original has a table each: all of it, and LongRoPE's short texts.

    Args:
        context: longest text.
        short: longest text with LongRoPE's short factors; None for other RoPE.
    """
    return [context] if short is None or short >= context else [short, context]


def _one_table(short: int) -> str:
    return (
        f"TensorRT-Edge-LLM makes one table of RoPE for texts of all lengths, chosen by its KV cache: build its engine "
        f"with --maxKVCacheCapacity {short} or less. With a larger one it reads texts of up to {short} tokens with the "
        "angles of longer ones, which the original does not."
    )


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


def original_table(module: nn.Module, length: int) -> Iterator[tuple[Array, Array]]:
    """Yield positions ``[n]`` and the original's table of them, float32 ``[n, rotary_dim]``: cosines, then sines.

    Args:
        module: the original's.
        length: of the text; it is asked for its last position each time, because LongRoPE looks at the largest.
    """
    import torch

    for start in range(0, length, CHUNK):
        positions = torch.arange(start, min(start + CHUNK, length))
        with torch.inference_mode():
            both = module(torch.zeros(1), torch.cat([positions, torch.tensor([length - 1])])[None])
        table = [one_of_each_pair(part[0, :-1].numpy()) for part in both]
        yield positions.numpy(), np.concatenate(table, axis=1)


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
