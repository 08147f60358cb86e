"""Gives the plugins of a graph of target ``edge-llm`` bodies of standard operators, which ONNX Runtime runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgellm_core.runtime.paged.attention_function import attention_function
from edgellm_core.runtime.paged.experts_function import experts_function
from edgellm_core.runtime.paged.int4_experts_function import int4_experts_function
from edgellm_core.runtime.paged.int4_function import int4_function, join_function

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import onnx

    MakeFunction = Callable[[str, Mapping[str, Any]], onnx.FunctionProto]

FUNCTIONS: Final[Mapping[str, MakeFunction]] = {
    "AttentionPlugin": attention_function,
    "Fp16MoePlugin": experts_function,
    "Int4GroupwiseGemmPluginV2": int4_function,
    "Int4MoePlugin": int4_experts_function,
    "QkvConcatPlugin": join_function,
}
"""Operator → what makes a function of its name and attributes."""


def add_functions(model: onnx.ModelProto) -> None:
    """Give a graph a function for each plugin and set of attributes that it has; the nodes call them afterwards.

    Args:
        model: changed in place; each node of a plugin keeps its inputs and outputs. What a function returns besides is
            named after the second of them, like ``present_key_values_0.keys``.
    """
    from onnx import helper

    functions: dict[str, onnx.FunctionProto] = {}
    for node in model.graph.node:
        make = FUNCTIONS.get(node.op_type)
        if make is None:
            continue
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        key = f"{node.op_type} {sorted(attributes.items())}"
        if key not in functions:
            functions[key] = make(f"{node.op_type}_{len(functions)}", attributes)
        function = functions[key]
        node.op_type = function.name
        del node.attribute[:]
        further = function.output[len(node.output) :]
        node.output.extend(f"{node.output[1]}.{name}" for name in further)
    model.functions.extend(functions.values())
