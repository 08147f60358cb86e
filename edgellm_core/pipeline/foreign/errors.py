"""Why an ONNX file of another exporter can't be read, rewritten or published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.errors import EdgellmError, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class NotAGraphError(UserError):
    """The input is no ONNX file."""

    def __init__(self, path: Path, reason: str) -> None:
        """Name the file and what is wrong with it."""
        super().__init__(f"{path} must be an ONNX file; {reason}. Name the .onnx file that an exporter wrote.")


class UnsupportedGraphError(UserError):
    """The graph holds something that would be lost."""

    def __init__(self, path: Path, what: str) -> None:
        """Name the file and what it holds."""
        super().__init__(f"{path} holds {what}, which surgery would lose. Export the model without.")


class MissingDataError(UserError):
    """The data file of a graph is not there, or too short."""

    def __init__(self, path: Path, tensor: str, reason: str) -> None:
        """Name the graph, the first tensor that lacks its data, and why."""
        super().__init__(
            f"{path} keeps the data of {tensor!r} in another file; {reason}. Put the file where the graph expects it."
        )


class SameFileError(UserError):
    """Input and output are one file."""

    def __init__(self, path: Path) -> None:
        """Name it."""
        super().__init__(f"-o must name another file than the input; got {path}. Choose another name.")


class OutputExistsError(UserError):
    """There is a file where the output would go."""

    def __init__(self, path: Path, remedy: str) -> None:
        """Name it and say what to do."""
        super().__init__(f"{path} exists already. {remedy}")


class NoSurgeryForTargetError(UserError):
    """A target that takes graphs which edgellm traced, and no others."""

    def __init__(self, target: str) -> None:
        """Name the target."""
        super().__init__(
            f"Target {target!r} does not take graphs of other exporters (Target.takes_imported). Use --target onnx, or "
            f"build the model from its checkpoint with `edgellm build`."
        )


class InputRunError(UserError):
    """The input file itself does not run, so that nothing can be compared."""

    def __init__(self, path: Path, sizes: str, reason: str) -> None:
        """Name the file, the sizes that were tried and what ONNX Runtime says."""
        super().__init__(
            f"ONNX Runtime can't run {path} with {sizes}: {reason}. Give sizes that fit with --dim NAME=N, or skip the "
            f"comparison with --check off."
        )


class ChangedResultError(EdgellmError):
    """The rewritten graph computes something else."""

    def __init__(self, output: str, sizes: str, difference: str, limit: float, rules: Sequence[str]) -> None:
        """Name the output, the sizes, the difference and the rules that applied."""
        applied = ", ".join(rules) or "none"
        super().__init__(
            f"The rewritten graph must compute what the input does; output {output!r} with {sizes} {difference}, the "
            f"limit is {limit:g}. Nothing was written. Rules that applied: {applied}. Report the model."
        )


class RewrittenRunError(EdgellmError):
    """The rewritten graph does not run."""

    def __init__(self, sizes: str, reason: str) -> None:
        """Name the sizes and what ONNX Runtime says."""
        super().__init__(
            f"The rewritten graph must run in ONNX Runtime; with {sizes} it does not: {reason}. Nothing was written. "
            f"Report the model."
        )


class InvalidResultError(EdgellmError):
    """The rewritten graph is no valid ONNX."""

    def __init__(self, reason: str) -> None:
        """Say what ONNX's checker says."""
        super().__init__(
            f"The rewritten graph must pass ONNX's checker; it says: {reason}. Nothing was written. Report the model."
        )
