"""Why a graph was not proved, one class per cause."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgellm_core.errors import EdgellmError, UserError, one_line
from edgellm_core.settings import LARGEST_FP16

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgellm_core.verification.graph_precision import NarrowNode
    from edgellm_core.verification.original_precision import Kind
    from edgellm_core.verification.range_watch import Peak

SHOWN = 3
"""Names that a message lists before it only counts."""


KIND_WORDS: Final[Mapping[Kind, str]] = {
    "norm": "the statistics of a norm",
    "square": "squares",
    "angle": "the angles of RoPE",
    "exponential": "an exponential, logarithm or softmax",
    "gate": "a sigmoid or tangent",
    "sum": "a running sum",
}
"""Kind of operator → words for it."""


class OriginalUndeterminedError(EdgellmError):
    """The original keeps some of several equal scores, and what it computes depends on which."""

    def __init__(self, check: str, difference: float, tolerance: float) -> None:
        """Name the check, and by how much the original differs from itself there."""
        super().__init__(
            f"The graph can't be compared with the original, which is undetermined in {check}: it keeps the largest of "
            f"scores that are equal up to rounding, and its logits change by {difference:.2g} with which of them "
            f"({tolerance:g} allowed). Nothing is published; --verify off builds without the comparison."
        )


class VerificationFailedError(EdgellmError):
    """The graph does not compute what the original computes.

    Attributes:
        check: check and step that failed first, in words.
        max_rel_err: relative error of the logits there; NaN where they are not finite.
        tolerance: largest error that passes.
        part: first part of the model that diverges; None where none could be named, or none stands out.
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
        explanation: str = "",
    ) -> None:
        """Build ``The graph differs from the original: <problem> in <check>. <what diverges first>``.

        Args:
            problem: what is wrong, in words.
            check: check and step.
            max_rel_err: error there.
            tolerance: largest that passes.
            part: first part that diverges.
            tensors: its weights that differ from the checkpoint.
            explanation: said instead where no part can be named.
        """
        self.check, self.max_rel_err, self.tolerance = check, max_rel_err, tolerance
        self.part, self.tensors = part, tuple(tensors)
        culprit = explanation or self._culprit()
        super().__init__(f"The graph differs from the original: {problem} in {check}. {culprit}.")

    def _culprit(self) -> str:
        if self.part is None:
            return "No layer could be named, since the graph does not show its hidden states"
        first = f"The first part that diverges is {self.part}"
        if not self.tensors:
            return f"{first}, and its weights equal the checkpoint's, so the graph computes it wrongly"
        return f"{first}, where {_shown(self.tensors)} differs from the checkpoint"


def _shown(tensors: Sequence[str]) -> str:
    more = f" (and {len(tensors) - SHOWN} more)" if len(tensors) > SHOWN else ""
    return ", ".join(repr(name) for name in tensors[:SHOWN]) + more


def rounding_explanation(precision: str) -> str:
    """Return the sentence for a failure in which every part is within rounding."""
    wider = " --precision bf16 or" if precision == "fp16" else ""
    remedy = f"build with{wider} --precision fp32" if precision != "fp32" else "please report it"
    return f"No part stands out: each is within the rounding of {precision}, which adds up in this model; {remedy}"


class NonFiniteActivationsError(VerificationFailedError):
    """The graph yields NaN or infinity where the original is finite."""

    def __init__(
        self, *, check: str, tolerance: float, precision: str, part: str | None, tensors: Sequence[str] = ()
    ) -> None:
        """Name check and first part with such values, its weights that differ, or a precision that may hold them."""
        where = f"the first ones come out of {part}" if part else "no layer could be named"
        remedy = "the original is finite there, so the graph computes it wrongly"
        if tensors:
            remedy = f"there {_shown(tensors)} differs from the checkpoint"
        elif precision == "fp16":
            remedy = f"float16 ends at {LARGEST_FP16:.0f}: build with --precision bf16 or --precision fp32"
        super().__init__(
            "logits are not finite",
            check=check,
            max_rel_err=float("nan"),
            tolerance=tolerance,
            part=part,
            tensors=tensors,
            explanation=f"{where[0].upper()}{where[1:]}; {remedy}",
        )


class ActivationRangeError(VerificationFailedError):
    """float16 can't hold the values that the original computes."""

    def __init__(self, excess: Peak, *, check: str, tolerance: float, part: str | None) -> None:
        """Name the module with the first value that is too large, and a precision that holds it."""
        where = f" in {part}" if part else ""
        self.check, self.max_rel_err, self.tolerance, self.part, self.tensors = check, float("nan"), tolerance, part, ()
        EdgellmError.__init__(
            self,
            f"float16 ends at {LARGEST_FP16:.0f}; {excess.module!r}{where} {excess.words} ({check}). "
            "Build with --precision bf16 or --precision fp32.",
        )


class NarrowComputationError(EdgellmError):
    """The graph computes in float16 or bfloat16 what the original computes in float32."""

    def __init__(self, node: NarrowNode, found: int, allowed: int) -> None:
        """Name the first such node, its layer, and how many there are here and there."""
        where = "outside the decoder layers" if node.layer is None else f"in decoder layer {node.layer}"
        self.node = node
        super().__init__(
            f"The graph computes {KIND_WORDS[node.kind]} in {node.element_type} where the original widens to float32: "
            f"{node.node!r} ({node.operator}) {where}, {found} of this kind where the original has {allowed}. Correct "
            "the rule or wrapper of the family that makes it, or build with --precision fp32."
        )


class Float16ArithmeticError(EdgellmError):
    """In float16 arithmetic the logits are NaN or infinite, although float16 holds the values that were watched."""

    def __init__(self, side: str, runtime: str) -> None:
        """Name what was run and what ran it."""
        super().__init__(
            f"In float16 arithmetic the logits of the {side} must be finite; on {runtime} they are not, while in "
            "float32 they are. Build with --precision bf16 or --precision fp32."
        )


class GraphNotFiniteError(EdgellmError):
    """The graph yields NaN or infinity on the text that its quality is measured with."""

    def __init__(self, sample: int) -> None:
        """Name the sample."""
        super().__init__(
            f"The graph's logits are not finite on held-out text (sample {sample}). Build with --precision bf16 or "
            "--precision fp32, or leave the most sensitive layers unquantized."
        )


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


class ReferenceRunError(UserError):
    """The original model itself can't run."""

    def __init__(self, directory: Path, error: Exception) -> None:
        """Name the checkpoint and what transformers raised."""
        super().__init__(
            f"The original model in {str(directory)!r} itself can't run (transformers, float32): "
            f"{type(error).__name__}: {one_line(error)[:500]}. config.json does not belong to the checkpoint, or "
            "transformers can't run such a model: try it there first."
        )


class ComparisonMemoryError(UserError):
    """The comparison takes more memory than it may have."""

    def __init__(self, what: str, needed: int, budget: int, *, reason: str = "", given: bool) -> None:
        """Say what takes how much, of what, and what helps."""
        kind, remedy = ("allowed", "Raise --max-memory") if given else ("free", "Use a larger machine")
        why = f", since {reason}" if reason else ""
        super().__init__(
            f"The comparison with the original must hold {what} in memory{why}; that takes up to {_gib(needed)} of "
            f"{_gib(budget)} {kind}. {remedy}, or build with --verify off to go without a comparison."
        )


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


class SourceDiffersError(UserError):
    """The source is not the one that the bundle was built from."""

    def __init__(self, bundle: Path, source: str, expected: str, found: str) -> None:
        """Name bundle, source and both digests."""
        super().__init__(
            f"The bundle {str(bundle)!r} was built from a checkpoint with digest {expected[:12]}; {source!r} has "
            f"{found[:12]}. Give the original with --source, or build the bundle again."
        )


class RoundingReferenceMissingError(UserError):
    """The original of a quantized checkpoint needs ModelOpt's own rounding."""

    def __init__(self) -> None:
        """Name the extra that brings it."""
        super().__init__(
            "Comparing a graph with rounded inputs needs NVIDIA's ModelOpt, whose own rounding is the reference; it is "
            "not installed. Install edgellm[quantize], or use --verify off to go without a comparison."
        )


class QuantizedSourceMissingError(UserError):
    """The bundle's weights were quantized in its build, and the source is the unquantized checkpoint."""

    def __init__(self, bundle: Path, source: str, precision: str) -> None:
        """Name the bundle and how to get a checkpoint to compare with."""
        super().__init__(
            f"The bundle {str(bundle)!r} must be compared with the checkpoint that its build quantized to {precision}; "
            f"{source!r} is not quantized. Give the quantized checkpoint with --source, if edgellm quantize wrote one."
        )


class ConversionDiffersError(EdgellmError):
    """The conversion of a quantized checkpoint and a second reading of it give different numbers."""

    def __init__(self, directory: Path, name: str, problem: str) -> None:
        """Name the checkpoint, the first tensor that differs, and how."""
        super().__init__(
            f"The conversion of {str(directory)!r} must equal a second reading of it by its published format; "
            f"{name!r} {problem}. Build from the unquantized checkpoint with --precision, and please report it."
        )


class ScaleValueError(UserError):
    """A scale of the quantized checkpoint can't be one."""

    def __init__(self, directory: Path, name: str, value: float) -> None:
        """Name the checkpoint, the scale and its value."""
        super().__init__(
            f"A scale must be finite and above zero (or zero over zeros alone); {name!r} of {str(directory)!r} has the "
            f"value {value:g}. The checkpoint is damaged: download it or export it again."
        )


class ScaleRangeError(UserError):
    """float16 can't hold a scale of the quantized checkpoint."""

    def __init__(self, name: str, change: float) -> None:
        """Name the scale, and how much rounding it changes what it scales."""
        super().__init__(
            f"float16 keeps eleven bits of numbers from 6.1e-5 to 65504 only; rounded to it, {name!r} changes what it "
            f"scales by {change:.2g}. Build with --precision bf16 or fp32 from the quantized "
            "checkpoint, or leave that layer unquantized."
        )


class RopeTablesDifferError(UserError):
    """The runtime would compute other RoPE angles than the original."""

    def __init__(self, module: str, difference: str) -> None:
        """Name the original's module and the largest difference."""
        super().__init__(
            f"From the config.json of target 'edge-llm' its runtime computes other RoPE angles than {module!r} of the "
            f"original: {difference}. Build it with --target onnx."
        )


class GenerationDiffersError(EdgellmError):
    """edgellm run answers otherwise than transformers' generate."""

    def __init__(self, prompt: int, step: int, reason: str, error: float, tolerance: float) -> None:
        """Name the prompt by its length, the token of the answer, and what happened there."""
        self.error = error
        super().__init__(
            f"edgellm run must answer as transformers' generate does; after a prompt of {prompt} tokens, at token "
            f"{step + 1} of the answer ({prompt + step} tokens before it), {reason} (error of the logits {error:.2g}, "
            f"{tolerance:g} allowed). Nothing is published; --verify off builds without the comparison."
        )


class OriginalGenerationError(UserError):
    """transformers' generate refuses a model's settings."""

    def __init__(self, folder: Path, reason: str) -> None:
        """Name the checkpoint and transformers' reason."""
        self.reason = reason.rstrip(".")
        super().__init__(
            f"transformers' generate refuses the settings of {str(folder)!r}: {reason}. Correct generation_config.json "
            "(or config.json where that is missing)."
        )
