"""Why a build is refused before its first long stage."""

from __future__ import annotations

from collections.abc import Mapping

from edgellm_core.errors import EdgellmError, UserError


class QuantizedCheckpointError(UserError):
    """The weights of the checkpoint are already quantized."""

    def __init__(self, source: str, quantization: object) -> None:
        """Name the source and its quantization method."""
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, Mapping) else quantization
        super().__init__(
            f"The weights of {source!r} must be float32, float16 or bfloat16; config.json says they are quantized "
            f"({method}). Build from the unquantized checkpoint."
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
