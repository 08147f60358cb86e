"""Quantized linear layers as TensorRT-Edge-LLM takes them: a plugin for int4, Q/DQ for the others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_graphsurgeon as gs

from edgellm_core.contract import QuantizedForm
from edgellm_core.errors import NoFormError
from edgellm_core.surgery.rule import Rule
from edgellm_core.targets.edge_llm.fragment_packing import FragmentPacking, packed_shape, require_alignment
from edgellm_core.targets.onnx.quantized_linear import (
    OperandWriter,
    QuantizedLinearToMatMul,
)
from edgellm_core.targets.onnx.quantized_recipes import linear_recipes

if TYPE_CHECKING:
    from edgellm_core.quantization.model import QuantizedLinear, QuantizedModel
    from edgellm_core.surgery.rule import Editor
    from edgellm_core.weights.recipe import Recipe

PLUGIN_DOMAIN: Final = "trt_edgellm"
INT4_PLUGIN: Final = "Int4GroupwiseGemmPluginV2"

TAKEN: Final = ("fp8", "int8", "int4", "nvfp4", "mxfp8")
"""Kinds of weight that the runtime takes; its int4 plugin knows no zero points."""


def quantized_linears(target: str, model: QuantizedModel) -> QuantizedForm:
    """Return the rule and the recipes of quantized linear layers; of a model without any, nothing.

    Args:
        target: its name, for errors.
        model: what is quantized; its KV cache is left to others.

    Raises:
        NoFormError: a kind of weight that the runtime does not take.
        UnalignedInt4Error: an int4 layer whose size the plugin does not take.
    """
    lacking = {linear.form.weight for linear in model.linears.values()} - {*TAKEN}
    if lacking:
        raise NoFormError(target, {f"{kind} weights" for kind in lacking})
    recipes = [recipe for linear in model.linears.values() for recipe in plugin_recipes(linear).values()]
    return QuantizedForm(rules=(QuantizedLinearToPlugin(model),) if model.linears else (), recipes=tuple(recipes))


def plugin_recipes(linear: QuantizedLinear) -> dict[str, Recipe]:
    """Return the recipe of each initializer of a layer of a float16 graph, by the suffix of its name.

    Raises:
        UnalignedInt4Error: an int4 layer whose size the plugin does not take.
    """
    recipes = linear_recipes(linear, "F16")
    if linear.form.weight == "int4":
        require_alignment(linear.module, linear.outputs, linear.inputs)
        shape = packed_shape(linear.outputs, linear.inputs)
        recipes["weight"] = replace(
            recipes["weight"], element_type="I8", shape=shape, packing=FragmentPacking(), transpose=False
        )
    return recipes


class QuantizedLinearToPlugin(QuantizedLinearToMatMul):
    """``edgellm::Linear(x, w[, b])`` → ``trt_edgellm::Int4GroupwiseGemmPluginV2(x, w, scales)[+ b]``; Q/DQ if not int4.

    The scales of int4 are ``[in / block, out]``. Smoothing that is not folded stays a product in front of the plugin.
    """

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Write the plugin, or the input, the weight and their product."""
        writer = self.writer(node, edit)
        if writer.linear.form.weight == "int4":
            _write_plugin(writer)
        else:
            super().rewrite(node, edit)

    def writer(self, node: gs.Node, edit: Editor) -> OperandWriter:
        """Return what writes the operands of a layer."""
        linear = self._model.linears[node.inputs[1].name]
        return OperandWriter(node=node, edit=edit, linear=linear, element_type="F16", recipes=plugin_recipes(linear))


def _write_plugin(writer: OperandWriter) -> None:
    node, edit, linear = writer.node, writer.edit, writer.linear
    bias, result = node.inputs[2:], node.outputs[0]
    [product] = edit.nodes(
        INT4_PLUGIN, [writer.input(), writer.stored("weight"), writer.stored("weight_scale")],
        [f"{node.name}.product"], name=node.name, domain=PLUGIN_DOMAIN,
        gemm_n=linear.outputs, gemm_k=linear.inputs, group_size=linear.form.block_size,
    )  # fmt: skip
    product.dtype, product.shape = result.dtype, result.shape
    if bias:
        edit.node("Add", [product, bias[0]], result, name=f"{node.name}/bias")
    else:
        edit.replace(result, product)


class ConcatToQkvConcat(Rule):
    """``Concat(q, k, v)`` → ``trt_edgellm::QkvConcatPlugin(q, k, v)`` of int4 products in front of ``AttentionPlugin``.

    Runs after the rule that makes the plugin of the attention.
    """

    def match(self, node: gs.Node, graph: gs.Graph) -> bool:
        """Match a join of three int4 products that an attention takes."""
        del graph
        takers = [taker for output in node.outputs for taker in output.outputs]
        return (
            node.op == "Concat"
            and len(node.inputs) == 3
            and all(_is_int4_product(tensor) for tensor in node.inputs)
            and any(taker.op == "AttentionPlugin" for taker in takers)
        )

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Write the plugin."""
        joined = node.outputs[0]
        [made] = edit.nodes(
            "QkvConcatPlugin", list(node.inputs), [f"{node.name}.packed"], name=node.name, domain=PLUGIN_DOMAIN
        )
        made.dtype, made.shape = joined.dtype, joined.shape
        edit.replace(joined, made)


def _is_int4_product(tensor: gs.Tensor) -> bool:
    """Say whether a value is the result of an int4 plugin, with or without a bias."""
    if not tensor.inputs:
        return False
    node = tensor.inputs[0]
    if node.op == "Add":
        return any(_is_int4_product(part) for part in node.inputs)
    return bool(node.op == INT4_PLUGIN)


def give_int4_three_axes(graph: gs.Graph) -> None:
    """Let int4 plugins of a graph over ``[tokens, hidden]`` take ``[1, tokens, hidden]``: they take three axes.

    Source: TensorRT-Edge-LLM 0.11, ``experimental/builder/ops/backend.py``.

    Args:
        graph: changed in place; its plugins take and return two axes.
    """
    plugins = [node for node in graph.nodes if node.op == INT4_PLUGIN]
    if not plugins:
        return
    axes = gs.Constant("int4.axes", np.array([0], np.int64))
    wide: dict[str, gs.Variable] = {}
    for node in plugins:
        x, result = node.inputs[0], node.outputs[0]
        if x.name not in wide:
            wide[x.name] = gs.Variable(f"{x.name}.wide", dtype=x.dtype)
            graph.nodes.append(gs.Node("Unsqueeze", f"{node.name}/wide", {}, [x, axes], [wide[x.name]]))
        product = gs.Variable(f"{node.name}.wide", dtype=result.dtype)
        node.inputs[0], node.outputs = wide[x.name], [product]
        graph.nodes.append(gs.Node("Squeeze", f"{node.name}/narrow", {}, [product, axes], [result]))
    graph.toposort()
