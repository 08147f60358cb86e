"""The RoPE angles that the runtime of TensorRT-Edge-LLM computes from its config.json.

Formulas: *RoFormer* (default), Llama 3.1 (llama3), *YaRN* (yarn), *LongRoPE* (longrope), NTK-aware scaling with a fixed
alpha (dynamic). Nothing of the model takes part, so that a wrong key of config.json shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Rope:
    """Angles for one length of context.

    Attributes:
        frequencies: radians a position of each pair of channels, ``[rotary_dim / 2]``.
        factor: on cos and sin.
    """

    frequencies: Floats
    factor: float = 1.0

    def cos_sin(self, positions: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return float32 ``[tokens, rotary_dim]``: the cosines, then the sines."""
        angles = positions.astype(np.float64)[:, None] * self.frequencies
        both = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) * self.factor
        return both.astype(np.float32)


def rope_of(config: Mapping[str, Any], length: int) -> Rope:
    """Return the angles that a config.json of the runtime describes.

    Args:
        config: its fields.
        length: longest position plus one; only longrope looks at it.

    Raises:
        KeyError: a field is missing, or the kind of angles is none of the runtime's.
    """
    scaling = config["rope_scaling"] or {}
    kind = scaling.get("type") or scaling.get("rope_type") or "default"
    return _KINDS[kind](config, scaling, length)


def _plain(config: Mapping[str, Any], base: float | None = None) -> Floats:
    width = int(config["head_dim"] * config["partial_rotary_factor"])
    exponents = np.arange(0, width, 2, dtype=np.float64) / width
    return (config["rope_theta"] if base is None else base) ** -exponents


def _default(config: Mapping[str, Any], scaling: Mapping[str, Any], length: int) -> Rope:
    del scaling, length
    return Rope(_plain(config))


def _llama3(config: Mapping[str, Any], scaling: Mapping[str, Any], length: int) -> Rope:
    """Divide low frequencies by a factor, keep high ones, and blend between them (meta-llama/llama-models)."""
    del length
    frequencies = _plain(config)
    original = scaling["original_max_position_embeddings"]
    turns = original * frequencies / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return Rope(frequencies * (blend + (1 - blend) / scaling["factor"]))


def _yarn(config: Mapping[str, Any], scaling: Mapping[str, Any], length: int) -> Rope:
    """Interpolate channels that turn slowly, keep those that turn fast (arXiv 2309.00071, section 3.2)."""
    del length
    frequencies = _plain(config)
    width, base = 2 * len(frequencies), config["rope_theta"]
    original = scaling.get("original_max_position_embeddings") or config["max_position_embeddings"]

    def channel(turns: float) -> float:
        return width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = channel(scaling.get("beta_fast") or 32), channel(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    ramp = np.clip((np.arange(width // 2) - low) / max(high - low, 1e-3), 0, 1)
    mixed = frequencies / scaling["factor"] * ramp + frequencies * (1 - ramp)
    factor = scaling.get("attention_factor")
    return Rope(mixed, _yarn_factor(scaling) if factor is None else float(factor))


def _yarn_factor(scaling: Mapping[str, Any]) -> float:
    """Return the factor on cos and sin: 0.1 · ln(factor) + 1, or the ratio of two such where mscale is given."""

    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(scaling["factor"]) + 1.0 if scaling["factor"] > 1 else 1.0

    both = scaling.get("mscale"), scaling.get("mscale_all_dim")
    return mscale(both[0]) / mscale(both[1]) if both[0] and both[1] else mscale(1.0)


def _longrope(config: Mapping[str, Any], scaling: Mapping[str, Any], length: int) -> Rope:
    """Divide each frequency by a factor of its own; there is one set for short contexts and one for long ones."""
    original = config["original_max_position_embeddings"]
    factors = scaling["long_factor"] if length > original else scaling["short_factor"]
    stated = scaling.get("attention_factor")
    ratio = config["max_position_embeddings"] / original
    computed = math.sqrt(1 + math.log(ratio) / math.log(original)) if ratio > 1 else 1.0
    return Rope(_plain(config) / np.array(factors), computed if stated is None else float(stated))


def _dynamic(config: Mapping[str, Any], scaling: Mapping[str, Any], length: int) -> Rope:
    """Raise the base by a fixed alpha: theta · alpha^(d / (d - 2)) (NTK-aware scaling)."""
    del length
    width = int(config["head_dim"] * config["partial_rotary_factor"])
    return Rope(_plain(config, config["rope_theta"] * scaling["alpha"] ** (width / (width - 2))))


_KINDS: Final[dict[str, Callable[[Mapping[str, Any], Mapping[str, Any], int], Rope]]] = {
    "default": _default, "llama3": _llama3, "yarn": _yarn, "longrope": _longrope, "dynamic": _dynamic,
}  # fmt: skip
