"""The table of cosines and sines that the runtime of TensorRT-Edge-LLM 0.11 makes from its config.json.

Followed step by step, in float32, from NVIDIA's public source (github.com/NVIDIA/TensorRT-Edge-LLM, commit 17e065c,
whose messages are those in the libraries of the wheel 0.11.0): ``collectRopeConfig`` in
``cpp/runtime/llmRuntimeUtils.cpp`` reads the keys, ``getRotaryDim`` in ``cpp/common/ropeUtils.h`` the width,
``RopeCache::getOrCreate`` in ``cpp/runtime/state/ropeCache.cpp`` chooses LongRoPE's table, and
``cpp/kernels/posEncoding/initializeCosSinCache.cu`` fills it. Nothing of transformers takes part: what the runtime does
not read (``mscale``, ``truncate``, LongRoPE's ``attention_factor``) is not read here either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.runtime.errors import RopeConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Floats = np.ndarray[Any, np.dtype[np.float32]]

F32: Final = np.float32
PI: Final = F32(math.pi)

DEFAULT_THETA: Final = 100000.0
"""``rope_theta`` where config.json has none: ``RopeConfig::rotaryTheta``."""

DEFAULT_POSITIONS: Final = 32768
"""``max_position_embeddings`` where config.json has none: ``RopeConfig::maxPositionEmbeddings``."""

WIDTHS: Final[Mapping[str, tuple[int, ...]]] = {
    "llama3": (64, 128), "yarn": (64, 128), "longrope": (32, 64, 96, 128),
}  # fmt: skip
"""Columns of the tables that the kernels make; those of other kinds have any even number."""


@dataclass(frozen=True)
class Rope:
    """How the table is computed: ``angle = position · multiplier / divisor``, in this order, in float32.

    Attributes:
        multiplier: ``[rotary_dim / 2]``; 1 where the kernel divides a position, 0 for channels that don't turn.
        divisor: ``[rotary_dim / 2]``; 1 where the kernel multiplies a position by a frequency.
        factor: on cosines and sines.
        longest: most tokens of a sequence for which the runtime makes a table at all; None for no bound.
    """

    multiplier: Floats
    divisor: Floats
    factor: float = 1.0
    longest: int | None = None

    @property
    def rotary_dim(self) -> int:
        """Columns of the table."""
        return 2 * len(self.multiplier)

    def cos_sin(self, positions: np.ndarray[Any, Any]) -> Floats:
        """Return float32 ``[tokens, rotary_dim]``: the cosines, then the sines."""
        angles = positions.astype(F32)[:, None] * self.multiplier / self.divisor
        wide = angles.astype(np.float64)  # the kernel's cosf and sinf are within two last places of these
        both = np.concatenate([np.cos(wide), np.sin(wide)], axis=1).astype(F32)
        product: Floats = both * F32(self.factor)
        return product


def rope_of(config: Mapping[str, Any], capacity: int) -> Rope:
    """Return the table that a config.json of the runtime describes.

    Args:
        config: its fields.
        capacity: tokens that the KV cache of one sequence holds, ``max_kv_cache_capacity``: it chooses LongRoPE's
            table, once for all sequences.

    Raises:
        RopeConfigError: the runtime refuses the config, or makes its table from the images of a request.
    """
    scaling = _scaling(config)
    kind = _kind(config, scaling)
    return _KINDS.get(kind, _default)(config, scaling, capacity)  # it takes an unknown type for the plain one


def short_capacity(config: Mapping[str, Any]) -> int | None:
    """Return the largest KV cache with which LongRoPE's table is that of short texts; None for other RoPE.

    The runtime makes one table for all texts. With a larger cache it is that of long ones, also for short texts.
    """
    if _kind(config, _scaling(config)) != "longrope":
        return None
    return int(_number(config, "original_max_position_embeddings"))


def lacking_width(config: Mapping[str, Any]) -> str | None:
    """Say that the runtime has no kernel for the table's width, which it refuses to load; None where it has one."""
    kind, width = _kind(config, _scaling(config)), rotary_dim(config)
    if width in WIDTHS.get(kind, (width,)):
        return None
    return f"it makes tables of {kind} for {', '.join(map(str, WIDTHS[kind]))} rotated channels only, not for {width}"


def rotary_dim(config: Mapping[str, Any]) -> int:
    """Return the columns of the table."""
    scaling, head_dim = _scaling(config), int(config["head_dim"])
    if scaling.get("type", scaling.get("rope_type")) == "proportional":
        return head_dim
    return int(F32(head_dim) * F32(config.get("partial_rotary_factor", 1.0)))


def _scaling(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``rope_scaling``, the one key that is looked at; null is as good as an empty object."""
    scaling = config.get("rope_scaling")
    return scaling if isinstance(scaling, dict) else {}


def _kind(config: Mapping[str, Any], scaling: Mapping[str, Any]) -> str:
    if config.get("use_rope") is False:
        return "nope"
    kind = scaling.get("type", scaling.get("rope_type", "default"))
    if not isinstance(kind, str):
        raise RopeConfigError("the type in rope_scaling must be a string")
    if kind == "mrope" or (kind == "default" and "mrope_section" in scaling):
        raise RopeConfigError("rope_scaling names mrope_section, so the table depends on the images of a request")
    return kind


def _number(scaling: Mapping[str, Any], key: str, default: float | None = None) -> Any:
    """Return the number under a key as float32."""
    value = scaling.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        reason = f"rope_scaling must have a number under {key}"
        raise RopeConfigError(reason)
    return F32(value)


def _original(config: Mapping[str, Any], scaling: Mapping[str, Any]) -> Any:
    """Return ``original_max_position_embeddings`` of rope_scaling, or else of config.json itself."""
    holder = scaling if "original_max_position_embeddings" in scaling else config
    found = _number(holder, "original_max_position_embeddings")
    if found <= 0:
        raise RopeConfigError("original_max_position_embeddings must be positive")
    return found


def _theta(config: Mapping[str, Any]) -> Any:
    return _number(config, "rope_theta", DEFAULT_THETA)


def _power(base: Any, exponent: Any) -> Any:
    """Return ``powf``: the power of two float32 numbers, rounded once."""
    return np.power(np.float64(base), np.asarray(exponent, np.float64)).astype(F32)


def _log(x: float) -> Any:
    return F32(math.log(x))


def _constants(config: Mapping[str, Any], theta: Any = None) -> Floats:
    """Return theta^(2 i / rotary_dim) of each pair of channels."""
    width = rotary_dim(config)
    if width <= 0 or width % 2:
        reason = f"it rotates an even number of channels, not {width}"
        raise RopeConfigError(reason)
    exponents = (2 * np.arange(width // 2)).astype(F32) / F32(width)
    constants: Floats = _power(_theta(config) if theta is None else theta, exponents)
    return constants


def _default(config: Mapping[str, Any], scaling: Mapping[str, Any], capacity: int) -> Rope:
    """Divide each position by its constant."""
    del scaling, capacity
    constants = _constants(config)
    return Rope(np.ones_like(constants), constants)


def _nope(config: Mapping[str, Any], scaling: Mapping[str, Any], capacity: int) -> Rope:
    """Turn nothing."""
    del scaling, capacity
    constants = _constants(config)
    return Rope(np.zeros_like(constants), constants)


def _proportional(config: Mapping[str, Any], scaling: Mapping[str, Any], capacity: int) -> Rope:
    """Divide positions by ``factor``; turn a first part of the channels, with constants of the whole head."""
    del capacity
    constants = _constants(config)
    factor = _number(scaling, "factor", 1.0)
    if factor <= 0:
        raise RopeConfigError("rope_scaling.factor must be positive")
    holder = scaling if "partial_rotary_factor" in scaling else config
    part = np.clip(_number(holder, "partial_rotary_factor", 1.0), F32(0), F32(1))
    turning = int(part * F32(len(constants)))
    scale = np.where(np.arange(len(constants)) < turning, F32(1) / factor, F32(0)).astype(F32)
    return Rope(scale, constants)


def _dynamic(config: Mapping[str, Any], scaling: Mapping[str, Any], capacity: int) -> Rope:
    """Raise theta by a fixed alpha: theta · alpha^(d / (d - 2)); without alpha, or with 0, leave it."""
    del capacity
    theta, alpha = _theta(config), scaling.get("alpha")
    if isinstance(alpha, (int, float)) and not isinstance(alpha, bool) and alpha > 0:
        size = F32(config["head_dim"])
        if size <= 2:
            raise RopeConfigError("rope_scaling.alpha needs a head_dim above 2")
        theta = F32(theta * _power(F32(alpha), size / (size - F32(2))))
    constants = _constants(config, theta)
    longest = int(config.get("max_position_embeddings", DEFAULT_POSITIONS))
    return Rope(np.ones_like(constants), constants, longest=longest)


def _llama3(config: Mapping[str, Any], scaling: Mapping[str, Any], capacity: int) -> Rope:
    """Divide low frequencies by a factor, keep high ones, and blend between them."""
    del capacity
    factor, original = _number(scaling, "factor"), _original(config, scaling)
    low, high = _number(scaling, "low_freq_factor"), _number(scaling, "high_freq_factor")
    if factor <= 0 or not 0 < low < high:
        raise RopeConfigError("llama3 needs a positive factor and 0 < low_freq_factor < high_freq_factor")
    frequencies = F32(1) / _constants(config)
    lengths = F32(2) * PI / frequencies
    smooth = (original / lengths - low) / (high - low)
    blended = (F32(1) - smooth) * frequencies / factor + smooth * frequencies
    kept = np.where(lengths < original / high, frequencies, blended)
    chosen = np.where(lengths > original / low, frequencies / factor, kept)
    return Rope(chosen, np.ones_like(chosen))


def _yarn(config: Mapping[str, Any], scaling: Mapping[str, Any], capacity: int) -> Rope:
    """Interpolate channels that turn slowly, keep those that turn fast; the bounds are always whole channels."""
    del capacity
    factor, original = _number(scaling, "factor"), _original(config, scaling)
    if factor <= 0:
        raise RopeConfigError("rope_scaling.factor must be positive for yarn")
    constants = _constants(config)
    width, base = F32(2 * len(constants)), _theta(config)

    def channel(turns: Any) -> Any:
        return F32(width * _log(original / (turns * F32(2) * PI)) / (F32(2) * _log(base)))

    low = max(np.floor(channel(_number(scaling, "beta_fast", 32.0))), F32(0))
    high = min(np.ceil(channel(_number(scaling, "beta_slow", 1.0))), width - F32(1))
    distance = high - low or F32(0.001)
    ramp = np.clip((np.arange(len(constants)).astype(F32) - low) / distance, F32(0), F32(1))
    kept = F32(1) - ramp
    mixed = F32(1) / (factor * constants) * (F32(1) - kept) + F32(1) / constants * kept
    default = F32(0.1) * _log(factor) + F32(1) if factor > 1 else F32(1)
    stated = scaling.get("attention_factor")
    on_table = default if stated is None else _number(scaling, "attention_factor")
    return Rope(mixed, np.ones_like(mixed), on_table)


def _longrope(config: Mapping[str, Any], scaling: Mapping[str, Any], capacity: int) -> Rope:
    """Divide each frequency by a factor of its own: short ones where the whole KV cache fits the original context."""
    constants = _constants(config)
    original = int(_number(config, "original_max_position_embeddings"))
    factors = [scaling.get(name) for name in ("short_factor", "long_factor")]
    if any(not isinstance(each, list) or len(each) != len(constants) for each in factors):
        reason = f"longrope needs {len(constants)} numbers under short_factor and under long_factor"
        raise RopeConfigError(reason)
    chosen = np.array(factors[0] if capacity <= original else factors[1], F32)
    ratio = F32(config.get("max_position_embeddings", DEFAULT_POSITIONS)) / F32(original)
    on_table = F32(math.sqrt(1 + float(_log(float(ratio))) / math.log(original))) if ratio > 1 else F32(1)
    return Rope(np.ones_like(constants), chosen * constants, on_table)


_KINDS: Final[dict[str, Callable[[Mapping[str, Any], Mapping[str, Any], int], Rope]]] = {
    "nope": _nope, "proportional": _proportional, "dynamic": _dynamic, "llama3": _llama3, "yarn": _yarn,
    "longrope": _longrope,
}  # fmt: skip
