"""Quantized linear layers in Q/DQ form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from edgellm_core.surgery.rule import Editor, Expected, NearMiss, Rule, semantic
from edgellm_core.targets.onnx.lower_linear import write_product
from edgellm_core.targets.onnx.quantized_recipes import TURNED, linear_recipes
from edgellm_core.weights.external_data import ONNX_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgellm_core.contract import GraphDimensions
    from edgellm_core.quantization.model import QuantizedLinear, QuantizedModel
    from edgellm_core.weights.recipe import Recipe

TRT_DOMAIN: Final = "trt"
"""Domain of the operators that only TensorRT's parser knows; names and attributes as ModelOpt 0.47 exports them
(``torch/quantization/export_onnx.py``)."""

STATIC_TYPES: Final = {"fp8": onnx.TensorProto.FLOAT8E4M3FN, "int8": onnx.TensorProto.INT8}
"""Kind of weight → type that its input is rounded to by one scale."""


def variable(recipe: Recipe, edit: Editor) -> gs.Variable:
    """Return the value of an initializer that is bound later; the same one at every call."""
    number = onnx.TensorProto.DataType.Value(ONNX_TYPES[recipe.element_type])
    dtype = helper.tensor_dtype_to_np_dtype(number)
    return edit.shared(("initializer", recipe.name), lambda: gs.Variable(recipe.name, dtype, recipe.shape))


class QuantizedLinearToMatMul(Rule):
    """``edgellm::Linear(x, w[, b])`` → ``MatMul(DQ(Q(x)), Transpose(DQ(w)))[+ b]`` where ``w`` is quantized.

    Weight-only layers round no input. The input of nvfp4 and mxfp8 is rounded by TensorRT's own operators, since ONNX
    has none that choose the scale of a block while they run.
    """

    def __init__(self, model: QuantizedModel) -> None:
        """Take the layers to write."""
        self._model = model

    def expected(self, dimensions: GraphDimensions) -> Expected:
        """One for every call of a quantized layer."""
        del dimensions
        return Expected.exactly(self._model.calls)

    def match(self, node: gs.Node, graph: gs.Graph) -> bool | NearMiss:
        """Match the semantic operator on the weight of a quantized layer."""
        del graph
        if not semantic(node, "Linear"):
            return False
        linear = self._model.linears.get(node.inputs[1].name)
        if linear is None:
            return False
        stated = tuple(node.inputs[1].shape)
        if stated != (linear.outputs, linear.inputs):
            return NearMiss(node.name, f"its weight is {list(stated)}, not {[linear.outputs, linear.inputs]}")
        return True

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Write the input, the weight and their product."""
        writer = self.writer(node, edit)
        write_product(node, writer.input(), writer.weight(), edit)

    def writer(self, node: gs.Node, edit: Editor) -> OperandWriter:
        """Return what writes the operands of a layer."""
        linear = self._model.linears[node.inputs[1].name]
        recipes = linear_recipes(linear, self._model.element_type)
        return OperandWriter(
            node=node, edit=edit, linear=linear, element_type=self._model.element_type, recipes=recipes
        )


@dataclass(frozen=True)
class OperandWriter:
    """Writes the operands of one layer.

    Attributes:
        node: the semantic operator.
        edit: adds the nodes.
        linear: the layer.
        element_type: type of the graph.
        recipes: its initializers by suffix.
    """

    node: gs.Node
    edit: Editor
    linear: QuantizedLinear
    element_type: str
    recipes: Mapping[str, Recipe]

    def input(self) -> gs.Tensor:
        """Return the input ``[…, in]``: smoothed, put in order, and rounded, each where the format says so."""
        form, x = self.linear.form, self.node.inputs[0]
        if form.smoothed:
            x = self._add("Mul", [x, self.stored("pre_quant_scale")], "smoothed", like=x)
        if form.ordered:
            x = self._add("Gather", [x, self.stored("input_order")], "ordered", like=x, axis=-1)
        if form.input == "static":
            scale = self.stored("input_scale")
            rounded = self._add("QuantizeLinear", [x, scale], "rounded", output_dtype=STATIC_TYPES[form.weight])
            return self._add("DequantizeLinear", [rounded, scale], "input", like=x)
        if form.input == "dynamic":
            return self.nvfp4_input(x) if form.weight == "nvfp4" else self._mxfp8_input(x)
        return x

    def weight(self) -> gs.Tensor:
        """Return the weight ``[in, out]`` in the type of the graph."""
        form = self.linear.form
        stored, scale = self.stored("weight"), self.stored("weight_scale")
        blocks: dict[str, Any] = {"block_size": form.block_size} if form.block_size else {}
        if form.weight == "mxfp8":
            weight = self._mxfp8_dequantize([stored, scale], "weight")
        elif form.weight == "nvfp4":
            scale = self._add("DequantizeLinear", [scale, self.stored("weight_scale_2")], "weight_scale")
            weight = self._add("DequantizeLinear", [stored, scale], "weight", axis=1, **blocks)
            weight = self._in_graph_type(weight, "weight_cast")
        else:
            zero = [self.stored("weight_zero_point")] if form.weight == "uint4" else []
            weight = self._add("DequantizeLinear", [stored, scale, *zero], "weight", axis=0, **blocks)
        if form.weight in TURNED:
            return weight
        return self._add("Transpose", [weight], "turned", perm=[1, 0])

    def nvfp4_input(self, x: gs.Tensor) -> gs.Tensor:
        """Return an input that was rounded to nvfp4."""
        scale, name, block = self.stored("input_scale"), self.node.name, self.linear.form.block_size
        rounded, scales = self.edit.nodes(
            "TRT_FP4DynamicQuantize", [x, scale], [f"{name}.rounded", f"{name}.scales"], name=f"{name}/rounded",
            domain=TRT_DOMAIN, axis=-1, block_size=block, scale_type=onnx.TensorProto.FLOAT8E4M3FN,
        )  # fmt: skip
        wide = self._add("DequantizeLinear", [scales, scale], "input_scale")
        value = self._add("DequantizeLinear", [rounded, wide], "input", axis=-1, block_size=block)
        return self._in_graph_type(value, "input_cast")

    def _mxfp8_input(self, x: gs.Tensor) -> gs.Tensor:
        name = self.node.name
        rounded = self.edit.nodes(
            "TRT_MXFP8DynamicQuantize", [x], [f"{name}.rounded", f"{name}.scales"], name=f"{name}/rounded",
            domain=TRT_DOMAIN, axis=-1, block_size=self.linear.form.block_size,
            output_dtype=onnx.TensorProto.FLOAT8E4M3FN,
        )  # fmt: skip
        return self._mxfp8_dequantize(rounded, "input")

    def _mxfp8_dequantize(self, inputs: list[gs.Tensor], label: str) -> gs.Tensor:
        name = self.node.name
        [value] = self.edit.nodes(
            "TRT_MXFP8DequantizeLinear", inputs, [f"{name}.{label}"], name=f"{name}/{label}", domain=TRT_DOMAIN,
            axis=-1, block_size=self.linear.form.block_size, output_dtype=self._number(),
        )  # fmt: skip
        return value

    def _in_graph_type(self, value: gs.Tensor, label: str) -> gs.Tensor:
        """Return a float32 value in the type of the graph."""
        return value if self.element_type == "F32" else self._add("Cast", [value], label, to=self._number())

    def _number(self) -> int:
        return int(onnx.TensorProto.DataType.Value(ONNX_TYPES[self.element_type]))

    def stored(self, suffix: str) -> gs.Variable:
        """Return the initializer with this suffix."""
        return variable(self.recipes[suffix], self.edit)

    def _add(self, op: str, inputs: list[gs.Tensor], label: str, **options: Any) -> gs.Tensor:
        return self.edit.node(op, inputs, f"{self.node.name}.{label}", name=f"{self.node.name}/{label}", **options)
