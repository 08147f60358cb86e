"""The original of a comparison, ready to be run part by part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgellm_core.verification.original_weights import OriginalWeights
from edgellm_core.verification.synchronized import Synchronizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgellm_core.verification.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Original:
    """transformers' own model, whose weights come and go.

    Attributes:
        weights: loads them.
        make_cache: makes the cache of a play; None for transformers' own.
        synchronizer: sees, and may replace, every number that a quantized checkpoint rounds; None where nothing is.
    """

    weights: OriginalWeights
    make_cache: Callable[[], Any] | None = None
    synchronizer: Synchronizer | None = None


def open_original(subject: Subject, *, rounded: bool = True, element_type: str = "fp32") -> Original:
    """Return the original; what lies outside of its layers is loaded.

    Args:
        subject: what is compared.
        rounded: round its weights as the graph's are, and what a quantized checkpoint rounds.
        element_type: precision in which it computes.

    Raises:
        ReferenceLoadError: transformers refuses, or a weight is missing or has another shape.
        ScaleRangeError: the graph is float16, which can't hold a scale.
        RoundingReferenceMissingError: inputs, keys or values are rounded, and ModelOpt is not installed.
    """
    from edgellm_core.verification.quantized_reference import install_rounding, round_embedded

    if subject.layout is None:
        narrow = subject.precision if rounded else element_type
        weights = OriginalWeights(subject, element_type=element_type, rounded_to=narrow)
        if narrow == "fp16" and weights.depth and subject.looks_up_products:
            round_embedded(weights.layers[0], Synchronizer())
        return Original(weights=weights)
    from edgellm_core.verification.rounding_points import key_order

    weights = OriginalWeights(subject, element_type=element_type, rounded_to=subject.element_type)
    synchronizer = Synchronizer(subject.rounding_points, key_order(subject.graph))
    make_cache = install_rounding(weights.model, subject, weights.stored, synchronizer)
    return Original(weights=weights, make_cache=make_cache, synchronizer=synchronizer)
