"""The lookup of the tokens, which the runtime does: in a table that a factor on the embeddings is folded into."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from edgellm_core.contract import Table
from edgellm_core.surgery.rule import Editor
from edgellm_core.targets.edge_llm.errors import EmbeddingMissingError
from edgellm_core.targets.edge_llm.interface import EMBEDS, TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterator


def take_embedding(graph: gs.Graph) -> Table | None:
    """Let readers of ``Gather(table, input_ids)``, times one number or not, take the input ``inputs_embeds``.

    Args:
        graph: changed in place; the input is ``[physical_tokens, hidden]``.

    Returns:
        The table; None where the graph reads that input already.

    Raises:
        EmbeddingMissingError: the graph does not look ``input_ids`` up.
    """
    lookup = next((node for node in graph.nodes if _looks_up(node)), None)
    if lookup is None and any(tensor.name == EMBEDS for node in graph.nodes for tensor in node.inputs):
        return None
    if lookup is None:
        raise EmbeddingMissingError
    table, found = lookup.inputs[0], lookup.outputs[0]
    product, factor = next(_products(found), (found, 1.0))
    Editor(graph).replace(product, gs.Variable(EMBEDS, table.dtype, [TOKENS, table.shape[-1]]))
    return Table(parameter=table.name, factor=factor)


def _looks_up(node: gs.Node) -> bool:
    table_first = node.op == "Gather" and not node.domain and int(node.attrs.get("axis", 0)) == 0
    return bool(table_first and node.inputs[1].name == "input_ids" and not node.inputs[0].inputs)


def _products(found: gs.Tensor) -> Iterator[tuple[gs.Tensor, float]]:
    """Yield the product with one number, and the number, where nothing else reads the embeddings."""
    if len(found.outputs) != 1 or found.outputs[0].op != "Mul":
        return
    node = found.outputs[0]
    for tensor in node.inputs:
        if isinstance(tensor, gs.Constant) and tensor.values.size == 1 and tensor.values.ndim <= len(found.shape):
            yield node.outputs[0], float(tensor.values.item())
