"""How ONNX Runtime runs quantized graphs on the CPU: exactly, and fast where memory allows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from edgellm_core.checkpoint.machine import available_memory

if TYPE_CHECKING:
    import onnx

FLOAT32_INPUTS: Final = ("session.qdq_matmulnbits_accuracy_level", "1")
"""Setting that keeps the inputs of weight-only int4 layers in float32. The default, 4, rounds them to 8 bits, which the
graph does not say: errors of 1e-2 instead of 1e-6 in a random model (ONNX Runtime 1.32)."""

FOLDED_WEIGHTS: Final = ("session.disable_quant_qdq", "1")
"""Setting that dequantizes weights once, while the graph is loaded, instead of in every step."""

_FLOAT16, _INT8, _FLOAT8, _FOUR_BITS = 10, 3, 17, (21, 22, 23)  # onnx.TensorProto; UINT4, INT4, FLOAT4E2M1


def session_settings(model: onnx.ModelProto) -> list[tuple[str, str]]:
    """Return the session options for a graph.

    ONNX Runtime has fast kernels for weight-only four-bit layers, and for int8 in float32 graphs. Other weights it
    dequantizes in every step: one layer of 2048 × 2048 took 62 ms a token in fp8 and 74 ms in int8, both in a float16
    graph, against 2 and 3 ms with weights that were dequantized while it was loaded. That takes their float16 or
    float32 size in memory, so it is done where they fit into half of what is free.

    Args:
        model: the graph; external data need not be loaded.
    """
    elements: dict[int, int] = {}
    for tensor in model.graph.initializer:
        elements[tensor.data_type] = elements.get(tensor.data_type, 0) + math.prod(tensor.dims)
    is_float16 = _FLOAT16 in elements
    slow = elements.get(_FLOAT8, 0) + (elements.get(_INT8, 0) if is_float16 else 0)
    fits = slow * (2 if is_float16 else 4) <= available_memory() // 2
    fold = slow and fits and not any(kind in elements for kind in _FOUR_BITS)
    return [FLOAT32_INPUTS, *([FOLDED_WEIGHTS] if fold else [])]
