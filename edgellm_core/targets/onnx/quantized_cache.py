"""A KV cache that is kept in fp8."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import helper

from edgellm_core.surgery.rule import Editor, Expected, Rule, semantic
from edgellm_core.targets.onnx.quantized_linear import variable
from edgellm_core.weights.recipe import Recipe

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from edgellm_core.contract import GraphDimensions
    from edgellm_core.quantization.model import QuantizedModel

FP8 = onnx.TensorProto.FLOAT8E4M3FN


def cache_recipe(scale: str, element_type: str) -> Recipe:
    """Return the recipe of the scale of one cache; it gets the type of the graph and is rounded to it."""
    return Recipe(name=scale, element_type=element_type, shape=(), sources=(scale,), positive=True)


class QuantizedCacheRule(Rule):
    """Rewrites ``edgellm::Append(past, new)`` of each cache that is kept in fp8."""

    def __init__(self, model: QuantizedModel) -> None:
        """Take the caches, and the checkpoint with their scales."""
        self._model = model

    def expected(self, dimensions: GraphDimensions) -> Expected:
        """One for every cache."""
        del dimensions
        return Expected.exactly(len(self._model.caches))

    def match(self, node: gs.Node, graph: gs.Graph) -> bool:
        """Match the semantic operator on a cache that has a scale."""
        del graph
        return semantic(node, "Append") and node.inputs[0].name in self._model.caches


class QuantizedAppend(QuantizedCacheRule):
    """``edgellm::Append(past, new)`` → ``full = Concat(DQ(past), DQ(Q(new)))``, ``present = Q(full)``, past in fp8.

    ONNX's Concat takes no float8 (opset 25), so the cache is joined in the type of the graph. Rounding again with the
    same scale changes nothing: float16 and bfloat16 keep at least twice the digits of E4M3 (float16 from scales of
    2⁻¹⁴ on, below which its own smallest numbers are coarser).
    """

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Write the standard operators."""
        past, new = node.inputs
        present, name = node.outputs[0], node.name
        scale = variable(cache_recipe(self._model.caches[past.name], self._model.element_type), edit)
        past.dtype = helper.tensor_dtype_to_np_dtype(FP8)

        def add(op: str, inputs: list[gs.Tensor], label: str, like: gs.Tensor | None = new) -> gs.Tensor:
            options = {"output_dtype": FP8} if op == "QuantizeLinear" else {}
            return edit.node(op, inputs, f"{name}.{label}", name=f"{name}/{label}", like=like, **options)

        rounded = add("QuantizeLinear", [new, scale], "rounded", like=None)
        parts = [add("DequantizeLinear", [past, scale], "past"), add("DequantizeLinear", [rounded, scale], "new")]
        full = edit.node("Concat", parts, f"{name}.full", name=name, like=new, axis=2)
        full.shape = present.shape
        for consumer in list(present.outputs):
            consumer.inputs = [full if tensor is present else tensor for tensor in consumer.inputs]
        present.dtype = past.dtype
        edit.node("QuantizeLinear", [full, scale], present, name=f"{name}/present", output_dtype=FP8)
