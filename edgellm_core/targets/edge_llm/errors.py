"""What TensorRT-Edge-LLM can't express, one class per cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

REMEDY = "Build it with --target onnx."


class AttentionNotExpressibleError(UserError):
    """An attention does what ``trt_edgellm::AttentionPlugin`` does not."""

    def __init__(self, place: str, reason: str) -> None:
        """Build ``Target 'edge-llm' can't express the attention …: <reason>.``."""
        super().__init__(f"Target 'edge-llm' can't express the attention {place!r}: {reason}. {REMEDY}")


class ExpertsNotExpressibleError(UserError):
    """A mixture of experts does what the plugins for experts do not."""

    def __init__(self, place: str, reason: str) -> None:
        """Build ``Target 'edge-llm' can't express the experts …: <reason>.``."""
        super().__init__(f"Target 'edge-llm' can't express the experts {place!r}: {reason}. {REMEDY}")


class NotTokenMajorError(UserError):
    """An operator needs sequences of one batch, and the runtime passes all tokens as one list."""

    def __init__(self, nodes: Sequence[str], reason: str) -> None:
        """Name the first operators and the reason."""
        shown = ", ".join(nodes[:3])
        super().__init__(
            f"Target 'edge-llm' needs a graph over a list of tokens [tokens, hidden]; got {shown}: {reason}. {REMEDY}"
        )


class InputNotExpressibleError(UserError):
    """The graph reads something that the runtime does not pass."""

    def __init__(self, name: str, nodes: Sequence[str]) -> None:
        """Name the input and its first readers."""
        super().__init__(
            f"Target 'edge-llm' passes no {name!r} to the graph, and {', '.join(nodes[:3])} read it. {REMEDY}"
        )


class EmbeddingMissingError(UserError):
    """The graph does not look tokens up in a table."""

    def __init__(self) -> None:
        """Name what the runtime does."""
        super().__init__(
            "Target 'edge-llm' needs a graph that looks input_ids up in one table, as the runtime does; it has none. "
            f"{REMEDY}"
        )


class SeveralRopesError(UserError):
    """Layers rotate by different angles."""

    def __init__(self, place: str) -> None:
        """Name the first layer that differs from the first one."""
        super().__init__(
            f"Target 'edge-llm' passes the RoPE angles of the first layer to all; {place!r} has others. {REMEDY}"
        )


class RopeNotExpressibleError(UserError):
    """The runtime can't compute the model's RoPE angles."""

    def __init__(self, reason: str) -> None:
        """Build ``The runtime of target 'edge-llm' can't compute the RoPE angles: <reason>.``."""
        super().__init__(f"The runtime of target 'edge-llm' can't compute the model's RoPE angles: {reason}. {REMEDY}")


class ConfigMismatchError(UserError):
    """config.json of the runtime has one number where the layers of the graph have several."""

    def __init__(self, key: str, values: Sequence[object]) -> None:
        """Name the key and the values."""
        super().__init__(f"Target 'edge-llm' has one {key} for all layers; got {', '.join(map(str, values))}. {REMEDY}")


class ChatTemplateMissingError(UserError):
    """Neither the checkpoint nor its family has a chat template."""

    def __init__(self, directory: object) -> None:
        """Name the checkpoint."""
        super().__init__(
            f"Target 'edge-llm' needs a chat template; {str(directory)!r} and its family have none. Put a "
            "chat_template.jinja into the checkpoint, or name a family that brings one (--family)."
        )


class TokenizerMissingError(UserError):
    """The checkpoint has no tokenizer."""

    def __init__(self, directory: object) -> None:
        """Name the checkpoint."""
        super().__init__(f"Target 'edge-llm' needs a tokenizer; {str(directory)!r} has none. Put tokenizer.json there.")
