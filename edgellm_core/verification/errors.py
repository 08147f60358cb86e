"""Why a graph was not proved, one class per cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.errors import EdgellmError, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SHOWN = 3
"""Names that a message lists before it only counts."""


class VerificationFailedError(EdgellmError):
    """The graph does not compute what the original computes.

    Attributes:
        check: check and step that failed first, in words.
        max_rel_err: relative error of the logits there; NaN where they are not finite.
        tolerance: largest error that passes.
        part: first part of the model that diverges; None where none could be named.
        tensors: weights of that part that differ from the checkpoint.
    """

    def __init__(
        self,
        problem: str,
        *,
        check: str,
        max_rel_err: float,
        tolerance: float,
        part: str | None = None,
        tensors: Sequence[str] = (),
        remedy: str = "",
    ) -> None:
        """Build ``The graph differs from the original: <problem> in <check>. <first diverging part> <remedy>``."""
        self.check, self.max_rel_err, self.tolerance = check, max_rel_err, tolerance
        self.part, self.tensors = part, tuple(tensors)
        sentences = [f"The graph differs from the original: {problem} in {check}", self._culprit(), remedy]
        super().__init__(" ".join(f"{sentence}." for sentence in sentences if sentence))

    def _culprit(self) -> str:
        if self.part is None:
            return "No layer could be named, since the graph does not show its hidden states"
        first = f"The first part that diverges is {self.part}"
        if not self.tensors:
            return f"{first}, and its weights equal the checkpoint's, so the graph computes it wrongly"
        shown = ", ".join(repr(name) for name in self.tensors[:SHOWN])
        more = f" (and {len(self.tensors) - SHOWN} more)" if len(self.tensors) > SHOWN else ""
        return f"{first}, where {shown}{more} differs from the checkpoint"


class NonFiniteActivationsError(VerificationFailedError):
    """The graph yields NaN or infinity where the original is finite."""

    def __init__(self, *, check: str, tolerance: float, precision: str, part: str | None) -> None:
        """Name check and first part with such values, and a precision that may hold them."""
        EdgellmError.__init__(
            self,
            f"The graph's logits are not finite in {check}; the first values that are not finite come out of "
            f"{part or 'a part that could not be named'}. {_wider(precision)}",
        )
        self.check, self.max_rel_err, self.tolerance = check, float("nan"), tolerance
        self.part, self.tensors = part, ()


def _wider(precision: str) -> str:
    if precision == "fp16":
        return "float16 ends at 65504: build with --precision bf16 or --precision fp32."
    return "The original is finite there, so the graph computes it wrongly; please report it."


class ReferenceNotFiniteError(UserError):
    """The original model itself yields NaN or infinity."""

    def __init__(self, directory: Path, check: str) -> None:
        """Name the checkpoint and the check."""
        super().__init__(
            f"The original model in {str(directory)!r} itself yields logits that are not finite (transformers, "
            f"float32, {check}). The checkpoint is damaged, or config.json does not belong to it."
        )


class ReferenceLoadError(UserError):
    """transformers can't load the original model whole."""

    def __init__(self, directory: Path, reason: str) -> None:
        """Name the checkpoint and what is wrong."""
        super().__init__(
            f"transformers can't load the original model in {str(directory)!r} to compare with: {reason}. "
            "Build with --verify off to go without a comparison."
        )


class GraphNotCuttableError(EdgellmError):
    """--verify layers can't cut the graph."""

    def __init__(self, reason: str) -> None:
        """Say why not."""
        super().__init__(f"--verify layers must cut the graph after its first layers; {reason}. Use --verify full.")


class SourceDiffersError(UserError):
    """The source is not the one that the bundle was built from."""

    def __init__(self, bundle: Path, source: str, expected: str, found: str) -> None:
        """Name bundle, source and both digests."""
        super().__init__(
            f"The bundle {str(bundle)!r} was built from a checkpoint with digest {expected[:12]}; {source!r} has "
            f"{found[:12]}. Give the original with --source, or build the bundle again."
        )
