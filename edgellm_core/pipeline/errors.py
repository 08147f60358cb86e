"""Why a build is refused before its first long stage."""

from __future__ import annotations

from edgellm_core.errors import EdgellmError, UserError


class QuantizedCheckpointError(UserError):
    """The weights of a checkpoint that is to be quantized already are."""

    def __init__(self, source: str, quantization: str) -> None:
        """Name the source and what of it is quantized."""
        super().__init__(
            f"The weights of {source!r} must be unquantized to quantize them; they already are: {quantization}. Build "
            "it with --precision fp16, bf16 or fp32, the precision of everything else, or take the unquantized "
            "checkpoint."
        )


class QualityLimitError(EdgellmError):
    """The graph is farther from the original than ``--max-kl`` allows."""

    resumable = True

    def __init__(self, kl: float, limit: float) -> None:
        """Build ``The graph must be within --max-kl … of the original; its mean KL divergence is …. …``."""
        super().__init__(
            f"The graph must be within --max-kl {limit:g} nats of the original on held-out text; its mean KL "
            f"divergence is {kl:.4g}. Choose a finer precision, calibrate on more samples, or raise --max-kl."
        )


class QualityNotMeasurableError(UserError):
    """``--max-kl`` asks for a number that can't be had."""

    def __init__(self, reason: str, remedy: str) -> None:
        """Build ``--max-kl needs the quality to be measured, and …. …``."""
        super().__init__(f"--max-kl needs the quality to be measured, and {reason}. {remedy}")
