"""Numbers that a program computes from constants alone, with operators that ONNX does not have."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping

    from torch.export import ExportedProgram

_DETACH = "aten.detach_.default"
"""The one in-place operator that changes no value."""


def fold_numbers(program: ExportedProgram, convertible: Container[str]) -> None:
    """Compute single numbers that a program makes of constants with operators that can't be converted.

    Models write such formulas with small tensors, for example ``erfinv`` of a share from their config.

    Args:
        program: the exported program, changed in place; its parameters and buffers are no constants.
        convertible: names of the operators that can be converted; they stay.
    """
    lifted = program.graph_signature.inputs_to_lifted_tensor_constants
    known: dict[fx.Node, Any] = {
        node: program.constants[lifted[node.name]]
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in lifted and not _is_written(node)
    }
    for node in _computable(program.graph, known):
        value = known[node] = _computed(node, known)
        if str(node.target) not in convertible and isinstance(value, torch.Tensor) and value.numel() == 1:
            known[_replaced(node, value)] = value
    program.graph_module.recompile()


def _computable(graph: fx.Graph, known: Mapping[fx.Node, Any]) -> Iterator[fx.Node]:
    """Yield the nodes whose inputs are all known, in order; whoever takes one adds its value to ``known``."""
    for node in graph.nodes:
        inputs = node.all_input_nodes
        from_constants = node.op == "call_function" and inputs and all(source in known for source in inputs)
        if from_constants and _is_repeatable(node.target) and not _is_written(node):
            yield node


def _is_repeatable(target: Any) -> bool:
    """Say whether an operator always returns the same and changes nothing."""
    if target is operator.getitem or str(target) == _DETACH:
        return True
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":  # noqa: SLF001  # no public name
        return False
    return not target._schema.is_mutable and torch.Tag.nondeterministic_seeded not in target.tags  # noqa: SLF001


def _is_written(node: fx.Node) -> bool:
    """Say whether something changes a node's value afterwards."""
    schemas = [getattr(user.target, "_schema", None) for user in node.users if str(user.target) != _DETACH]
    return any(schema is not None and schema.is_mutable for schema in schemas)


def _computed(node: fx.Node, known: Mapping[fx.Node, Any]) -> Any:
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda source: known[source])
    target: Any = node.target
    return target(*args, **kwargs)


def _replaced(node: fx.Node, value: torch.Tensor) -> fx.Node:
    arguments = ([*value.shape], value.item())
    with node.graph.inserting_before(node):
        number = node.graph.call_function(torch.ops.aten.full.default, arguments, {"dtype": value.dtype})
    number.meta = dict(node.meta)
    node.replace_all_uses_with(number)
    return number
