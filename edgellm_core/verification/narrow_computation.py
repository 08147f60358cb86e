"""Refuses a graph that computes in float16 or bfloat16 what the original widens to float32.

The comparison raises all types of the graph to float32, so it can't see a norm, an angle or a softmax that is computed
in a narrow type. Here the types themselves are compared, by kind of operator and decoder layer.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import torch

from edgellm_core.tracing.errors import UntraceableModelError
from edgellm_core.verification.errors import NarrowComputationError
from edgellm_core.verification.graph_precision import narrow_nodes
from edgellm_core.verification.original_precision import count_narrow

if TYPE_CHECKING:
    import onnx
    from transformers import PreTrainedConfig

    from edgellm_core.events import Reporter
    from edgellm_core.verification.graph_precision import NarrowNode
    from edgellm_core.verification.original_precision import NarrowCounts

TYPES: Final = {"fp16": torch.float16, "bf16": torch.bfloat16}
"""Precision → its type, where that is narrow."""


def require_types_of_original(
    model: onnx.ModelProto, config: PreTrainedConfig, precision: str, report: Reporter
) -> None:
    """Compare the types of a graph with those that the original computes in; float32 graphs are right anyway.

    Args:
        model: the graph; its external data is not read.
        config: transformers config of the original, as the family adapts it.
        precision: of what is not quantized.
        report: told where the original can't be run without weights.

    Raises:
        NarrowComputationError: naming the first node that is too narrow.
    """
    if precision not in TYPES:
        return
    nodes = narrow_nodes(model)
    if not nodes:
        return
    try:
        original = count_narrow(config, TYPES[precision])
    except UntraceableModelError as error:
        report.note(f"Which operators the original computes in float32 was not compared: {error}")
        return
    _compare(nodes, original, stamped=any(node.name.startswith("layers.") for node in model.graph.node))


def _compare(nodes: list[NarrowNode], original: NarrowCounts, *, stamped: bool) -> None:
    counts = Counter((node.layer, node.kind) for node in nodes)
    for node in nodes:
        found, allowed = counts[node.layer, node.kind], original.allowed(node.layer, node.kind, stamped=stamped)
        if found > allowed:
            raise NarrowComputationError(node, found, allowed)
