"""Rules that only graphs of other exporters need."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from edgellm_core.surgery.rule import Editor, Expected, NearMiss, Rule, Stage
from edgellm_core.targets.edge_llm.imported.errors import NotADecoderError
from edgellm_core.targets.edge_llm.interface import SEQUENCES, runtime_input

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from edgellm_core.contract import GraphDimensions


class ProductToChosenTokens(Rule):
    """``MatMul(x, head)`` → ``MatMul(Gather(x, logits_indices), head)``: only chosen tokens have logits."""

    stage: ClassVar[Stage] = "clean"

    def expected(self, dimensions: GraphDimensions) -> Expected:
        """Once."""
        del dimensions
        return Expected.exactly(1)

    def match(self, node: gs.Node, graph: gs.Graph) -> bool:
        """Match the product that the logits come from."""
        return node.op == "MatMul" and not node.domain and _product_of(graph) is node

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Gather the input of the product."""
        x, name = node.inputs[0], node.name or "head"
        indices = runtime_input("logits_indices", edit)
        chosen = edit.node("Gather", [x, indices], f"{name}.chosen", name=f"{name}/chosen", like=x, axis=0)
        chosen.shape = [SEQUENCES, *x.shape[2:]]
        logits = edit.node("MatMul", [chosen, node.inputs[1]], f"{name}.chosen_logits", name=name, like=x)
        logits.shape = [SEQUENCES, *node.outputs[0].shape[2:]]
        edit.replace(node.outputs[0], logits)


def _product_of(graph: gs.Graph) -> gs.Node:
    """Return the product that makes the logits, through operators of one operand or with constants.

    Raises:
        NotADecoderError: something else makes them.
    """
    tensor = graph.outputs[0]
    while tensor.inputs:
        node = tensor.inputs[0]
        if node.op == "MatMul" and not node.domain:
            return node
        variable = [one for one in node.inputs if one.inputs]
        if len(variable) != 1:
            break
        tensor = variable[0]
    reason = f"its logits are not made by a product with the weight of a head, but by {tensor.name!r}"
    raise NotADecoderError(reason)


class SwishToSigmoid(Rule):
    """``Swish(x)`` (opset 24) → ``x · Sigmoid(x)``, which TensorRT fuses."""

    def match(self, node: gs.Node, graph: gs.Graph) -> bool | NearMiss:
        """Match it where its factor is 1."""
        del graph
        return node.op == "Swish" and not node.domain and float(node.attrs.get("alpha", 1.0)) == 1.0

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Write the two operators."""
        x, output = node.inputs[0], node.outputs[0]
        name = node.name or output.name
        gate = edit.node("Sigmoid", [x], f"{output.name}.gate", name=f"{name}/gate", like=x)
        gate.shape = x.shape
        edit.node("Mul", [x, gate], output, name=name)
