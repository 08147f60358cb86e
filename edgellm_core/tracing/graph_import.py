"""ONNX models as onnx-graphsurgeon graphs, with every element type as a numpy type."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs
from onnx import helper
from onnx_graphsurgeon.logger import G_LOGGER

if TYPE_CHECKING:
    import onnx


def import_graph(model: onnx.ModelProto) -> gs.Graph:
    """Import a model.

    graphsurgeon leaves types that numpy itself lacks (bfloat16) as ONNX's numbers and warns about each tensor of
    them on stdout; here they become the types of ml_dtypes, which it exports unchanged. Constants are loaded, so that
    the graph shares nothing with ``model``.
    """
    with G_LOGGER.suppress(G_LOGGER.ERROR):
        graph = gs.import_onnx(model)
        for tensor in [*graph.inputs, *graph.outputs, *graph.tensors().values()]:
            if isinstance(tensor, gs.Constant):
                tensor.values = tensor.values
            elif isinstance(tensor.dtype, int):
                tensor.dtype = helper.tensor_dtype_to_np_dtype(tensor.dtype)
    return graph
