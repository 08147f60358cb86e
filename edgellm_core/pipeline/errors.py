"""Why a build is refused before its first long stage."""

from __future__ import annotations

from edgellm_core.errors import UserError


class QuantizedCheckpointError(UserError):
    """The weights of a checkpoint that is to be quantized already are."""

    def __init__(self, source: str, quantization: str) -> None:
        """Name the source and what of it is quantized."""
        super().__init__(
            f"The weights of {source!r} must be unquantized to quantize them; they already are: {quantization}. Build "
            "it with --precision fp16, bf16 or fp32, the precision of everything else, or take the unquantized "
            "checkpoint."
        )
