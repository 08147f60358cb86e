"""What rules for patterns of several nodes share: finding, refusing what is used elsewhere, and naming."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

from edgellm_core.surgery.rule import Editor, NearMiss, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx_graphsurgeon as gs


class MissedError(Exception):
    """A node looks like the pattern and is not; the message says why. Caught by ``PatternRule.match``."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A pattern in a graph.

    Attributes:
        inner: nodes before the last one whose values nothing needs after the rewrite.
    """

    inner: tuple[gs.Node, ...]


def miss(reason: str) -> NoReturn:
    """Leave a node alone that looks like the pattern.

    Raises:
        MissedError: with the reason.
    """
    raise MissedError(reason)


FoundT = TypeVar("FoundT", bound=Found)


class PatternRule(Rule, Generic[FoundT]):
    """A rewrite of several nodes, found from the last one and put in its place."""

    @abc.abstractmethod
    def find(self, node: gs.Node) -> FoundT | None:
        """Return the pattern that ends at a node, or None.

        Raises:
            MissedError: it almost is one; the reason.
        """

    @abc.abstractmethod
    def write(self, node: gs.Node, found: FoundT, edit: Editor) -> None:
        """Add what the pattern means in the place of its last node."""

    def match(self, node: gs.Node, graph: gs.Graph) -> bool | NearMiss:
        """Match a pattern whose inner values nothing else uses."""
        if node.domain or not node.outputs:
            return False
        try:
            found = self.find(node)
        except MissedError as missed:
            return NearMiss(name_of(node), str(missed))
        if found is None:
            return False
        used = used_elsewhere(found.inner, node, graph)
        if used is not None:
            return NearMiss(name_of(node), f"its inner value {used!r} has a second consumer")
        return True

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Write what was found."""
        found = self.find(node)
        assert found is not None
        self.write(node, found, edit)


def used_elsewhere(inner: Iterable[gs.Node], last: gs.Node, graph: gs.Graph) -> str | None:
    """Return the name of the first value of ``inner`` that something outside of the pattern uses."""
    members = {id(last), *(id(node) for node in inner)}
    outputs = {id(tensor) for tensor in graph.outputs}
    for node in inner:
        for tensor in node.outputs:
            if id(tensor) in outputs or any(id(consumer) not in members for consumer in tensor.outputs):
                return str(tensor.name)
    return None


def name_of(node: gs.Node) -> str:
    """Return a node's name, or where it has none that of its first output."""
    return str(node.name or (node.outputs[0].name if node.outputs else node.op))
