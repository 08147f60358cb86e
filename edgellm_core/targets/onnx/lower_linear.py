"""Linear layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.surgery.rule import Editor, Expected, Rule, semantic

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from edgellm_core.contract import GraphDimensions


class LinearToMatMul(Rule):
    """``edgellm::Linear(x, w[, b])`` → ``Add(MatMul(x, Transpose(w)), b)``.

    Weights stay ``[out, in]`` as in the checkpoint: TensorRT folds the transpose, a tied head shares its table, and the
    engine is the smallest of the forms that were measured.
    """

    def expected(self, dimensions: GraphDimensions) -> Expected:
        """At least one for every linear module that the model called; functional calls come on top."""
        return Expected(at_least=dimensions.linears)

    def match(self, node: gs.Node, graph: gs.Graph) -> bool:
        """Match the semantic operator."""
        del graph
        return semantic(node, "Linear")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Write the standard operators."""
        x, weight = node.inputs[:2]
        flipped = edit.node(
            "Transpose", [weight], f"{node.name}.weight", name=f"{node.name}/T", like=weight, perm=[1, 0]
        )
        write_product(node, x, flipped, edit)


def write_product(node: gs.Node, x: gs.Tensor, weight: gs.Tensor, edit: Editor) -> None:
    """Write the product of an input ``[…, in]`` and a weight ``[in, out]``, and add the bias of ``node`` if it has one.

    Args:
        node: the semantic operator, whose output the result becomes.
        x: the input.
        weight: the weight.
        edit: the editor.
    """
    bias = node.inputs[2:]
    if not bias:
        edit.node("MatMul", [x, weight], node.outputs[0], name=node.name)
        return
    product = edit.node("MatMul", [x, weight], f"{node.name}.product", name=node.name, like=node.outputs[0])
    edit.node("Add", [product, bias[0]], node.outputs[0], name=f"{node.name}/bias")
