"""Why target ``edge-llm`` can't take a graph of another exporter, one class per cause."""

from __future__ import annotations

from edgellm_core.errors import UserError

REMEDY = "Use --target onnx, or build the model from its checkpoint with `edgellm build --target edge-llm`."


class NotADecoderError(UserError):
    """The graph is not one that reads tokens and a cache and gives logits."""

    def __init__(self, reason: str) -> None:
        """Say what is missing."""
        super().__init__(f"Target 'edge-llm' takes decoders, from ids or embeddings to logits; {reason}. {REMEDY}")


class NotHalfPrecisionError(UserError):
    """The graph computes in another type than float16."""

    def __init__(self, tensor: str, dtype: object) -> None:
        """Name the first tensor and its type."""
        super().__init__(
            f"Target 'edge-llm' takes float16 graphs, whose weights stay as they are; {tensor!r} is {dtype}. Export "
            "the model in float16 (model.half()), or build it from its checkpoint with `edgellm build`."
        )


class MaskNotProvenError(UserError):
    """The mask of an attention is not plain causality, a window and padding."""

    def __init__(self, place: str, reason: str) -> None:
        """Name the attention and what its mask does."""
        super().__init__(
            f"Target 'edge-llm' has causality, a window and padding for masks; that of the attention {place!r} "
            f"{reason}. {REMEDY}"
        )


class AnglesNotProvenError(UserError):
    """The tables of a rotation are not cosine and sine of positions times constant frequencies."""

    def __init__(self, place: str, reason: str) -> None:
        """Name the rotation and what its tables are."""
        super().__init__(
            f"Target 'edge-llm' takes the RoPE angles from its runtime: positions times constant frequencies; the "
            f"tables of {place!r} {reason}. {REMEDY}"
        )


class NotComputableError(Exception):
    """A value depends on weights or activations; the message names the first. Never leaves this package."""
