"""Why surgery stops: a graph that is not what its model says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.errors import EdgellmError, UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellm_core.surgery.rule import NearMiss


class RuleCountError(EdgellmError):
    """A rule applied more or less often than the model demands."""

    def __init__(self, rule: str, expected: str, applied: int, near_miss: NearMiss | None) -> None:
        """Name the rule, both counts, and the first node that almost matched."""
        missed = f" First near miss: {near_miss.node!r}, {near_miss.reason}." if near_miss else ""
        super().__init__(
            f"Rule {rule} must apply {expected} times to this model; it applied {applied} times.{missed} "
            f"The traced graph is not what the model says; report the model, or correct the rule."
        )


class DuplicateTensorError(EdgellmError):
    """Two different tensors of the graph have one name."""

    def __init__(self, name: str) -> None:
        """Name the tensor."""
        super().__init__(
            f"Two tensors of the graph are both named {name!r}, and only one would be exported. "
            f"A surgery rule made a name twice; correct it."
        )


class DisorderedGraphError(EdgellmError):
    """A node stands before the one that makes its input."""

    def __init__(self, node: str, tensor: str) -> None:
        """Name the node and the input."""
        super().__init__(
            f"Node {node!r} must come after the node that makes its input {tensor!r}; it comes before it. "
            f"A surgery rule added it too early: shared values may use graph inputs and constants only."
        )


class LeftoverOperatorsError(EdgellmError):
    """Semantic operators that no rule lowered."""

    def __init__(self, target: str, operators: Sequence[str]) -> None:
        """Name the target and the operators."""
        super().__init__(
            f"Target {target!r} has no form of {', '.join(operators)}. The target or the family needs a rule for it."
        )


class OpsetError(UserError):
    """A graph can't be raised to the opset that the rewrite needs."""

    def __init__(self, current: int, wanted: int, operator: str, reason: str) -> None:
        """Name both opsets, and the operator that is in the way."""
        subject = f"operator {operator}: {reason}" if operator else reason
        super().__init__(
            f"The graph must be raised from opset {current} to {wanted}, which can't be done: {subject}. "
            f"Export the model again with opset {wanted}."
        )
