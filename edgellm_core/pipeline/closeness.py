"""Whether a checkpoint that a build rounded is still close to its original, and what to try where it is not.

That the graph computes what the checkpoint says is another question, which verification decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from edgellm_core.pipeline.settings import BuildSettings

MOST_KL: Final = 0.1
"""Largest mean Kullback-Leibler divergence from the original, in nats, that is not warned of. SmolLM2-135M in 8 bits is
at 0.02 to 0.07 and gives the original's answers; int4_awq on 8 samples is at 0.12 and does not know the capital of
France any more."""

LEAST_TOP1: Final = 0.85
"""Smallest share of positions with the original's most likely token that is not warned of."""

FEW_SAMPLES: Final = 128
"""Below so many samples of calibration more of them help."""


def closeness_warning(quality: Mapping[str, Any] | None, settings: BuildSettings) -> str | None:
    """Return what to say of a build that is far from its original; None where it is close, or was not measured.

    Args:
        quality: fields of a ``QualityRecord``.
        settings: what was asked for.
    """
    if not quality or (quality["kl"] <= MOST_KL and quality["top1_agreement"] >= LEAST_TOP1):
        return None
    return (
        f"Warning: this is far from the original (KL {quality['kl']:.2g} nats, top-1 {quality['top1_agreement']:.1%}; "
        f"close is at most {MOST_KL:g} and at least {LEAST_TOP1:.0%}), so answers can be wrong. "
        f"Try {', '.join(_advice(settings))}."
    )


def _advice(settings: BuildSettings) -> Iterator[str]:
    """Yield options that may help and that were not used."""
    if not settings.quantizes:
        yield "--precision bf16 or fp32"
        return
    if settings.calib_samples is not None and settings.calib_samples < FEW_SAMPLES:
        yield f"more calibration samples (--calib-samples {FEW_SAMPLES}; {settings.calib_samples} were asked for)"
    if settings.calib_data in (None, "builtin"):
        yield "text of the kind that the model will read (--calib-data FILE)"
    if settings.rounding is None:
        yield "--rounding compensated"
    if settings.precision == "int4_awq" and settings.group_size is None:
        yield "--group-size 32"
    yield "another scheme (--precision fp8 or int8_sq round less)"
