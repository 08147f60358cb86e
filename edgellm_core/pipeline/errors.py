"""Why a build is refused before its first long stage."""

from __future__ import annotations

from collections.abc import Mapping

from edgellm_core.errors import UserError


class QuantizedCheckpointError(UserError):
    """The weights of the checkpoint are already quantized."""

    def __init__(self, source: str, quantization: object) -> None:
        """Name the source and its quantization method."""
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, Mapping) else quantization
        super().__init__(
            f"The weights of {source!r} must be float32, float16 or bfloat16; config.json says they are quantized "
            f"({method}). Build from the unquantized checkpoint."
        )
