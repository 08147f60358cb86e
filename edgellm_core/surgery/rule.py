"""The contract of a surgery rule, and the tools to write one."""

from __future__ import annotations

import abc
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import numpy as np
import onnx
import onnx_graphsurgeon as gs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgellm_core.contract import GraphDimensions

Stage = Literal["clean", "lower", "polish"]
STAGES: Final[tuple[Stage, ...]] = ("clean", "lower", "polish")
"""Order of the rules: tidy the traced graph, lower semantic operators, tidy what the lowering left."""

SEMANTIC_DOMAIN: Final = "edgellm"
_CONSTANT: Final = "edgellm.constant."
"""Start of the names of constants that rules make; the rest follows from their contents."""


@dataclass(frozen=True, slots=True)
class Expected:
    """How often a rule has to apply.

    Attributes:
        at_least: lowest count.
        at_most: highest count; None for no limit.
    """

    at_least: int = 0
    at_most: int | None = None

    @classmethod
    def exactly(cls, count: int) -> Expected:
        """Return the range that holds one count only."""
        return cls(count, count)

    def as_json(self) -> int | tuple[int, int | None]:
        """Return the count, or the bounds of the range, as the manifest has it."""
        return self.at_least if self.at_least == self.at_most else (self.at_least, self.at_most)

    def __contains__(self, count: int) -> bool:
        return self.at_least <= count and (self.at_most is None or count <= self.at_most)

    def __str__(self) -> str:
        if self.at_most == self.at_least:
            return str(self.at_least)
        return f"{self.at_least}–{self.at_most}" if self.at_most is not None else f"≥ {self.at_least}"


@dataclass(frozen=True, slots=True)
class NearMiss:
    """A node that a rule looked at and left alone.

    Attributes:
        node: the node's name.
        reason: why it did not match.
    """

    node: str
    reason: str


def graph_output(node: gs.Node, graph: gs.Graph) -> NearMiss | None:
    """Return the near miss of a node that makes an output of the graph, which has to stay; None for others."""
    output = node.outputs[0]
    if any(output is tensor for tensor in graph.outputs):
        return NearMiss(node.name or output.name, "it produces a graph output")
    return None


class Rule(abc.ABC):
    """One rewrite of the graph.

    A rule is pure (no state between match and rewrite), idempotent (a second run applies 0 times) and keeps the graph's
    outputs. The docstring of a subclass starts with the rewrite in one line.

    Attributes:
        name: unique name for the report; the class name by default.
        stage: when it runs.
    """

    name: ClassVar[str] = ""
    stage: ClassVar[Stage] = "lower"

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Name the rule after its class where it has no name."""
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__

    def expected(self, dimensions: GraphDimensions) -> Expected:
        """Return how often the rule has to apply to a model of these dimensions; by default any number of times."""
        del dimensions
        return Expected()

    @abc.abstractmethod
    def match(self, node: gs.Node, graph: gs.Graph) -> bool | NearMiss:
        """Say whether the rule applies at a node; a near miss carries its reason.

        Args:
            node: the node to look at.
            graph: the graph that holds it.
        """

    @abc.abstractmethod
    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Replace the node, through the editor.

        Args:
            node: a node that matched.
            edit: adds nodes in the node's place.
        """


class Editor:
    """Adds nodes to a graph at the place of the node that is being rewritten.

    Values that all layers share (masks, lengths) are made once, by key, and placed before everything else.
    """

    def __init__(self, graph: gs.Graph) -> None:
        self.graph = graph
        self.added: list[gs.Node] = []
        self.shared_nodes: list[gs.Node] = []
        self._shared: dict[object, gs.Tensor] = {}
        self._first: dict[object, gs.Tensor] = {}
        self._constants: dict[str, gs.Constant] | None = None
        self._into: list[gs.Node] = self.added

    def constant(self, value: Any, dtype: Any = np.int64) -> gs.Constant:
        """Return a small constant; equal ones of the graph share one initializer, whichever rule asked first."""
        array = np.asarray(value, dtype=dtype)
        kind = f"{array.dtype}{list(array.shape)}"
        name = f"{_CONSTANT}{array.dtype}.{hashlib.sha256(kind.encode() + array.tobytes()).hexdigest()[:16]}"
        if self._constants is None:
            tensors = (tensor for node in self.graph.nodes for tensor in node.inputs)
            self._constants = {
                t.name: t for t in tensors if isinstance(t, gs.Constant) and t.name.startswith(_CONSTANT)
            }
        return self._constants.setdefault(name, gs.Constant(name, array))

    def node(
        self,
        op: str,
        inputs: Sequence[gs.Tensor],
        output: gs.Tensor | str,
        *,
        name: str,
        like: gs.Tensor | None = None,
        **attributes: Any,
    ) -> gs.Tensor:
        """Add a node with one output.

        Args:
            op: ONNX operator of the default domain.
            inputs: its inputs.
            output: the tensor it produces, or the name of a new one.
            name: the node's name.
            like: tensor whose element type a new output gets.
            attributes: the node's attributes.

        Returns:
            The output.
        """
        result = (
            gs.Variable(output, dtype=like.dtype if like is not None else None) if isinstance(output, str) else output
        )
        self._into.append(gs.Node(op, name, attributes, list(inputs), [result]))
        return result

    def cast(self, tensor: gs.Tensor, output: gs.Variable, *, name: str) -> gs.Tensor:
        """Add a cast of a tensor to the element type of the output, and return the output."""
        to = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(output.dtype))
        return self.node("Cast", [tensor], output, name=name, to=to)

    def semantic(
        self, op: str, inputs: Sequence[gs.Tensor], output: gs.Tensor, *, name: str, **attributes: Any
    ) -> None:
        """Add a semantic operator with one output."""
        self._into.append(gs.Node(op, name, attributes, list(inputs), [output], domain=SEMANTIC_DOMAIN))

    def nodes(
        self, op: str, inputs: Sequence[gs.Tensor], outputs: Sequence[str], *, name: str, domain: str, **attributes: Any
    ) -> list[gs.Tensor]:
        """Add a node of any domain with several outputs, and return them; their element types stay unknown."""
        results = [gs.Variable(output) for output in outputs]
        self._into.append(gs.Node(op, name, attributes, list(inputs), results, domain=domain))
        return list(results)

    def shared(self, key: object, make: Callable[[], gs.Tensor]) -> gs.Tensor:
        """Return a value that all layers share; ``make`` adds its nodes once, from graph inputs and constants only."""
        if key not in self._shared:
            outer, self._into = self._into, self.shared_nodes
            self._shared[key] = make()
            self._into = outer
        return self._shared[key]

    def first(self, key: object, make: Callable[[], gs.Tensor]) -> gs.Tensor:
        """Return a value that later nodes share; ``make`` adds its nodes at the place of the first one."""
        if key not in self._first:
            self._first[key] = make()
        return self._first[key]

    def graph_input(self, name: str) -> gs.Tensor:
        """Return a graph input by name."""
        return next(tensor for tensor in self.graph.inputs if tensor.name == name)

    def replace(self, old: gs.Tensor, new: gs.Tensor) -> None:
        """Let every consumer of ``old`` take ``new``; as a graph output, ``new`` takes its name, type and place."""
        for consumer in list(old.outputs):
            consumer.inputs = [new if tensor is old else tensor for tensor in consumer.inputs]
        for index, output in enumerate(self.graph.outputs):
            if output is old:
                name = old.name
                old.name = f"{name}.replaced"
                new.name = name
                new.dtype = new.dtype if old.dtype is None else old.dtype
                new.shape = new.shape if old.shape is None else old.shape
                self.graph.outputs[index] = new


def semantic(node: gs.Node, op: str) -> bool:
    """Say whether a node is the semantic operator ``op``."""
    return bool(node.op == op and node.domain == SEMANTIC_DOMAIN)
