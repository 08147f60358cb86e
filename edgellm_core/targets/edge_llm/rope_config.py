"""The keys of config.json from which the runtime computes the RoPE angles, written so that it computes the model's.

The runtime does not read all that transformers does (:mod:`edgellm_core.runtime.paged.rope` lists what it reads). What
it computes otherwise is said in its own words where there are any, and refused by name where there are none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.targets.edge_llm.errors import RopeNotExpressibleError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BETA_FAST: Final = 32.0
BETA_SLOW: Final = 1.0
"""Turns within the original context that bound yarn's ramp, where the checkpoint names none (arXiv 2309.00071)."""

SAME_FACTOR: Final = 1e-6
"""Largest relative difference of two factors on the table that are one: they are float32 in the runtime."""


@dataclass(frozen=True)
class _Model:
    """What is known of the model.

    Attributes:
        stated: the checkpoint's own keys; None where it has none.
        parameters: transformers' reading of them.
        known: transformers' reading of the whole config.
        whole: whether all channels of a head are rotated.
    """

    stated: dict[str, Any] | None
    parameters: Mapping[str, Any]
    known: Mapping[str, Any]
    whole: bool

    @property
    def keys(self) -> dict[str, Any]:
        """The checkpoint's own keys, if any."""
        return self.stated or {}


def rope_fields(raw: Mapping[str, Any], known: Mapping[str, Any], *, head_dim: int, rotary_dim: int) -> dict[str, Any]:
    """Return ``rope_theta``, ``rope_scaling``, ``partial_rotary_factor`` and what they need.

    Args:
        raw: the checkpoint's config.json.
        known: transformers' reading of it, with its defaults.
        head_dim: channels of a head.
        rotary_dim: how many of them the graph rotates.

    Raises:
        RopeNotExpressibleError: the runtime has no such angles, or not those of the model.
    """
    parameters = known.get("rope_parameters") or {}
    if any(isinstance(value, dict) for value in parameters.values()):
        raise RopeNotExpressibleError("config.json has other parameters for each kind of layer")
    kind = str(parameters.get("rope_type", "default"))
    if kind not in _WRITERS:
        reason = f"it has no rope_type {kind!r}"
        raise RopeNotExpressibleError(reason)
    if parameters.get("rope_theta") is None:
        raise RopeNotExpressibleError("config.json names no rope_theta")
    model = _Model(_stated(raw, kind, parameters), parameters, known, whole=head_dim == rotary_dim)
    fields: dict[str, Any] = {
        "rope_theta": float(parameters["rope_theta"]),
        "rope_scaling": _WRITERS[kind](model),
        "partial_rotary_factor": partial_factor(head_dim, rotary_dim, parameters.get("partial_rotary_factor")),
    }
    if kind == "longrope":
        fields["original_max_position_embeddings"] = int(parameters["original_max_position_embeddings"])
    return fields


def partial_factor(head_dim: int, rotary_dim: int, stated: float | None = None) -> float:
    """Return the factor whose float32 product with ``head_dim``, cut to an integer as the runtime does, is right.

    Args:
        head_dim: channels of a head.
        rotary_dim: those that are rotated.
        stated: the checkpoint's own factor, kept where it is right.
    """
    import numpy as np

    def width(factor: float) -> int:
        return int(np.float32(head_dim) * np.float32(factor))

    exact = rotary_dim / head_dim
    above = float(np.nextafter(np.float32(exact), np.float32(2)))
    candidates = [exact, above] if stated is None else [float(stated), exact, above]
    return next(factor for factor in candidates if width(factor) == int(head_dim * factor) == rotary_dim)


def _stated(raw: Mapping[str, Any], kind: str, parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the checkpoint's own keys, under the type that transformers takes them for; None where it has none.

    Keys without a value go: the runtime would look for a number in them. So does what it would take for MRoPE, whose
    three positions are one and the same for text.
    """
    own = raw.get("rope_scaling") or raw.get("rope_parameters")
    if not isinstance(own, dict):
        own = None if kind == "default" else parameters
    if own is None:
        return None
    kept = {key: value for key, value in own.items() if value is not None and key != "mrope_section"}
    named = kind != "default" or "rope_type" in kept or "type" in kept
    return {**kept, "rope_type": kind, "type": kind} if named else kept


def _as_stated(model: _Model) -> dict[str, Any] | None:
    """The runtime reads what transformers reads."""
    return model.stated


def _linear(model: _Model) -> dict[str, Any] | None:
    """The runtime has no ``linear``, but ``proportional`` over whole heads divides positions by a factor too."""
    if not model.whole:
        raise RopeNotExpressibleError("it has no rope_type 'linear' for a part of each head")
    kind = {"rope_type": "proportional", "type": "proportional"}
    return {**model.keys, **kind, "factor": float(model.parameters["factor"]), "partial_rotary_factor": 1.0}


def _proportional(model: _Model) -> dict[str, Any] | None:
    """The channels that don't turn are counted among the rotated ones."""
    if not model.whole:
        raise RopeNotExpressibleError("its rope_type 'proportional' rotates whole heads")
    return {
        **model.keys,
        "factor": float(model.parameters.get("factor") or 1.0),
        "partial_rotary_factor": float(model.parameters.get("partial_rotary_factor") or 1.0),
    }


def _llama3(model: _Model) -> dict[str, Any] | None:
    """In transformers the original context beside ``rope_scaling`` wins, in the runtime the one within it."""
    return {**model.keys, "original_max_position_embeddings": int(model.parameters["original_max_position_embeddings"])}


def _yarn(model: _Model) -> dict[str, Any] | None:
    """The runtime reads ``attention_factor``, not the ``mscale`` that make it, and rounds its bounds always."""
    original = int(model.parameters["original_max_position_embeddings"])
    factor = float(model.parameters.get("factor") or model.known["max_position_embeddings"] / original)
    fast, slow = (float(model.parameters.get(key) or usual) for key, usual in _BETAS)
    if not model.parameters.get("truncate", True):
        _require_whole_bounds(model.known, model.parameters, (fast, slow), original)
    on_table = model.parameters.get("attention_factor")
    rest = {key: value for key, value in model.keys.items() if key not in ("mscale", "mscale_all_dim", "truncate")}
    return {
        **rest,
        "factor": factor,
        "original_max_position_embeddings": original,
        "beta_fast": fast,
        "beta_slow": slow,
        "attention_factor": _yarn_factor(model.parameters, factor) if on_table is None else float(on_table),
    }


_BETAS: Final = (("beta_fast", BETA_FAST), ("beta_slow", BETA_SLOW))


def _yarn_factor(parameters: Mapping[str, Any], factor: float) -> float:
    """Return the factor on cos and sin: 0.1 · ln(factor) + 1, or the ratio of two such where both mscale are given."""

    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    above, below = parameters.get("mscale"), parameters.get("mscale_all_dim")
    return mscale(above) / mscale(below) if above and below else mscale(1.0)


def _require_whole_bounds(
    known: Mapping[str, Any], parameters: Mapping[str, Any], turns: tuple[float, float], original: int
) -> None:
    """Refuse ``truncate: false`` where the bounds of the ramp are no whole channels."""
    head_dim = known.get("head_dim") or known["hidden_size"] // known["num_attention_heads"]
    width = int(head_dim * float(parameters.get("partial_rotary_factor") or 1.0))
    base = math.log(float(parameters["rope_theta"]))
    low, high = (width * math.log(original / (each * 2 * math.pi)) / (2 * base) for each in turns)
    if max(low, 0) != max(math.floor(low), 0) or min(high, width - 1) != min(math.ceil(high), width - 1):
        reason = f"rope_scaling.truncate is false, and it rounds the bounds of yarn's ramp, {low:.3f} and {high:.3f}"
        raise RopeNotExpressibleError(reason)


def _longrope(model: _Model) -> dict[str, Any] | None:
    """The runtime makes the factor on cos and sin of the two contexts, whatever ``attention_factor`` or ``factor``."""
    original = int(model.parameters["original_max_position_embeddings"])
    context = int(model.known["max_position_embeddings"])
    computed, wanted = _longrope_factor(context / original, original), model.parameters.get("attention_factor")
    if wanted is None:
        wanted = _longrope_factor(float(model.parameters.get("factor") or context / original), original)
    if not math.isclose(wanted, computed, rel_tol=SAME_FACTOR):
        reason = (
            f"its factor on them is {computed:.6g}, made of max_position_embeddings {context} and "
            f"original_max_position_embeddings {original}, and that of the model is {wanted:.6g} "
            "(attention_factor or factor of rope_scaling)"
        )
        raise RopeNotExpressibleError(reason)
    return model.stated


def _longrope_factor(ratio: float, original: int) -> float:
    return math.sqrt(1 + math.log(ratio) / math.log(original)) if ratio > 1 else 1.0


_WRITERS: Final[dict[str, Callable[[_Model], dict[str, Any] | None]]] = {
    "default": _as_stated, "dynamic": _as_stated, "llama3": _llama3, "yarn": _yarn, "longrope": _longrope,
    "linear": _linear, "proportional": _proportional,
}  # fmt: skip
"""transformers' rope_type → what writes its keys."""
