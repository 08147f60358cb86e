"""How often a traced program calls each semantic operator, by decoder layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgellm_core.tracing.operators import DOMAIN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import fx

OUTSIDE: Final = "outside"
"""Key of the calls before, between and after the layers."""


def remove_dead_nodes(graph: fx.Graph) -> None:
    """Remove checks of the trace, and what no output needs, such as a pooler that only another head reads."""
    for node in reversed(graph.nodes):
        if "_assert_" in str(node.target) and not node.users:
            graph.erase_node(node)
    graph.eliminate_dead_code()


def count_calls(graph: fx.Graph) -> dict[str, dict[str, int]]:
    """Count the calls that the outputs need: operator → decoder layer (or ``outside``) → number.

    Args:
        graph: an exported program's, in the order of the calls, without dead nodes.
    """
    calls: dict[str, dict[str, int]] = {}
    layer = OUTSIDE
    for operator, node in _semantic_calls(graph):
        if operator == "LayerOutput":
            layer = OUTSIDE
        counts = calls.setdefault(operator, {})
        counts[layer] = counts.get(layer, 0) + 1
        if operator == "LayerInput":
            attributes: Any = node.kwargs["attr_ints"]
            layer = str(attributes[0])
    return calls


def _semantic_calls(graph: fx.Graph) -> Iterator[tuple[str, fx.Node]]:
    for node in graph.nodes:
        if node.op == "call_function" and node.kwargs.get("domain") == DOMAIN:
            yield str(node.args[1]), node
