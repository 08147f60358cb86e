"""``trt_edgellm::Int4MoePlugin`` as an ONNX function of standard operators, written from its contract alone.

The weights of the chosen experts are always divided by their sum. Weights lie in tiles of 16 inputs and 64 outputs:
number ``4 · odd + 2 · right + far`` of the little-endian word ``16 · column + 4 · pair + quarter`` of a tile is the
weight, plus 8, of input ``8 · far + 2 · pair + odd`` and output ``16 · quarter + 8 · right + column``. Scales are
``[experts, groups, outputs]``; of each 64 outputs number ``row + 8 · column`` is at ``8 · row + column``, and with one
group of each 32 number ``8 · part + 2 · row + odd`` is at ``8 · row + 2 · part + odd``. Rows of gate come before those
of up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgellm_core.runtime.paged.experts_function import add_expert, mixture_function, require_values
from edgellm_core.runtime.paged.function_body import FLOAT, INT32, FunctionBody

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

STACKS: Final = ("gate_up", "gate_up_scales", "down", "down_scales")


def int4_experts_function(name: str, attributes: Mapping[str, Any]) -> onnx.FunctionProto:
    """Return the function of a node with these attributes.

    Raises:
        PluginAttributeError: an attribute asks for what target ``edge-llm`` never writes.
    """
    require_values("Int4MoePlugin", attributes, {"activation_type": 0})
    hidden, inner = int(attributes["hidden_size"]), int(attributes["moe_inter_size"])
    group = int(attributes["quantization_group_size"])
    body = FunctionBody("e")
    both = _dequantized(body, "gate_up", 2 * inner, hidden, group)
    down = _dequantized(body, "down", hidden, inner, group)
    gate, up = (
        body.op("Slice", both, body.ints(start), body.ints(start + inner), body.ints(0)) for start in (0, inner)
    )
    add_expert(body, gate, up, down)
    return mixture_function(name, attributes, STACKS, body, normalised=True)


def _dequantized(body: FunctionBody, stack: str, outputs: int, inputs: int, group: int) -> str:
    """Return a weight of one expert, float32 ``[outputs, inputs]``."""
    byte = body.op("Mod", body.op("Cast", f"{stack}_one", to=INT32), _int32(body, 256))
    last = body.ints(-1)
    halves = [body.op("Mod", byte, _int32(body, 16)), body.op("Div", byte, _int32(body, 16))]
    nibbles = body.op("Concat", *(body.op("Unsqueeze", half, last) for half in halves), axis=-1)
    # [tile of inputs, tile of outputs, column, pair, quarter, odd, right, far] → outputs, then inputs
    placed = body.op("Reshape", nibbles, body.ints(inputs // 16, outputs // 64, 8, 4, 4, 2, 2, 2))
    turned = body.op("Transpose", placed, perm=[1, 4, 6, 2, 0, 7, 3, 5])
    grouped = body.op("Reshape", turned, body.ints(outputs, inputs // group, group))
    numbers = body.op("Cast", body.op("Sub", grouped, _int32(body, 8)), to=FLOAT)
    scaled = body.op("Mul", numbers, body.op("Unsqueeze", _scales(body, stack, outputs, inputs // group), last))
    return body.op("Reshape", scaled, body.ints(outputs, inputs))


def _scales(body: FunctionBody, stack: str, outputs: int, groups: int) -> str:
    """Return the scales of one expert, float32 ``[outputs, groups]``."""
    shape, perm = ((-1, 8, 8), [1, 3, 2, 0]) if groups > 1 else ((-1, 4, 4, 2), [1, 3, 2, 4, 0])
    placed = body.op("Reshape", body.op("Cast", f"{stack}_scales_one", to=FLOAT), body.ints(groups, *shape))
    return body.op("Reshape", body.op("Transpose", placed, perm=perm), body.ints(outputs, groups))


def _int32(body: FunctionBody, value: int) -> str:
    return body.op("Cast", body.integer(value), to=INT32)
