"""Why a twin was not made, or what it found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.errors import EdgellmError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellm_core.verification.twin.lengths import Edge


class TwinNotMadeError(EdgellmError):
    """There is no small model of the same kind to run at long lengths."""

    def __init__(self, model_type: str, reason: str) -> None:
        """Name the type and what stands in the way."""
        self.reason = reason
        super().__init__(
            f"Long lengths were not proved, since no small twin of the {model_type!r} model could be made: {reason}."
        )


class TwinNotExportedError(EdgellmError):
    """The twin can't be exported, although only its sizes and lengths differ from the model's."""

    def __init__(self, edges: Sequence[Edge], reason: str) -> None:
        """Name the lengths that the twin reaches, and why it can't be exported."""
        named = ", ".join(map(str, edges))
        beyond = f" beyond {named}" if named else ""
        super().__init__(
            f"What the model computes{beyond} can't be exported; on a twin with small sizes: {reason} "
            "Build with --verify off to go without this proof."
        )


class TwinDiffersError(EdgellmError):
    """The graph of the twin does not compute what its original computes.

    Attributes:
        length: tokens at which it differs.
        max_rel_err: relative error of the logits there.
    """

    def __init__(
        self, case: str, length: int, right: int, error: float, tolerance: float, edges: Sequence[Edge]
    ) -> None:
        """Name the case, the length, and the threshold on whose wrong side it lies.

        Args:
            case: how the prompt was read.
            length: tokens read when it differed.
            right: most tokens that were right before.
            error: relative error there.
            tolerance: largest that passes.
            edges: lengths where behaviour changes.
        """
        self.length, self.max_rel_err = length, error
        passed = [edge for edge in edges if edge.length < length]
        below = f" at or below {edges[0]}" if edges else ""
        side = f" beyond {passed[-1]}" if passed else below
        before = f"; up to {right} tokens it is right" if right else ""
        super().__init__(
            f"The graph differs from the original{side}: on a twin of the model with small sizes and random weights, "
            f"max_rel_err {error:.2g} exceeds {tolerance:g} at {length} tokens, {case}{before}. A family plugin has to "
            "handle the model."
        )


class TwinStoppedError(EdgellmError):
    """ONNX Runtime can't run the graph of the twin at some length."""

    def __init__(self, case: str, length: int, edges: Sequence[Edge], reason: str) -> None:
        """Name the case, the length, and the thresholds beside it."""
        named = f" (with {', '.join(map(str, edges))})" if edges else ""
        first = " ".join(reason.split())[:200]
        super().__init__(
            f"On a twin of the model with small sizes and random weights{named} the graph stops at {length} tokens, "
            f"{case}: {first}. A family plugin has to handle the model."
        )
