"""``trt_edgellm::Fp16MoePlugin`` as an ONNX function of standard operators, written from its contract alone.

Softmax over the experts, the ``top_k`` largest, divided by their sum where ``norm_topk_prob`` says so. ``fc1``
``[experts, 2 · inner, hidden]`` holds 64 rows of up, then 64 of gate, and so on; ``fc2`` is ``[experts, hidden,
inner]``. Numbers are float32 inside. One expert is computed at a time, so that one is widened at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgellm_core.runtime.errors import PluginAttributeError
from edgellm_core.runtime.paged.function_body import FLOAT, FunctionBody

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

BLOCK: Final = 64
"""Rows of up or gate that lie together."""

_ONLY: Final = {"activation_type": 2, "max_routed_rows": 0, "routing_mode": 0}
"""Attributes that target ``edge-llm`` writes with one value: SwiGLU, no cap, softmax."""


def experts_function(name: str, attributes: Mapping[str, Any]) -> onnx.FunctionProto:
    """Return the function of a node with these attributes.

    Raises:
        PluginAttributeError: an attribute asks for what target ``edge-llm`` never writes.
    """
    for flag, value in _ONLY.items():
        if attributes.get(flag, value) != value:
            raise PluginAttributeError(flag, "Fp16MoePlugin", value)
    body = FunctionBody()
    routing = _routing(body, attributes)
    x = body.op("Cast", "hidden", to=FLOAT, out="x")
    start = body.op("Mul", x, body.number(0.0))
    total = body.op("Scan", start, routing, "fc1", "fc2", body=_one_expert(attributes), num_scan_inputs=3)
    body.op("CastLike", total, "hidden", out="mixed")
    return body.function(name, ["logits", "hidden", "fc1", "fc2"], ["mixed"])


def _routing(body: FunctionBody, attributes: Mapping[str, Any]) -> str:
    """Return the weight of each expert for each token, ``[experts, tokens]``, 0 where it was not chosen."""
    last = body.ints(-1)
    shares = body.op("Softmax", "logits", axis=-1)
    values, index = body.ops("TopK", shares, body.ints(int(attributes["top_k"])), outs=("values", "index"), axis=-1)
    if attributes["norm_topk_prob"]:
        values = body.op("Div", values, body.op("ReduceSum", values, last, keepdims=1))
    experts = body.op("Range", body.integer(0), body.integer(int(attributes["num_experts"])), body.integer(1))
    chosen = body.op("Equal", body.op("Unsqueeze", index, last), experts)
    spread = body.op("Where", chosen, body.op("Unsqueeze", values, last), body.number(0.0))
    return body.op("Transpose", body.op("ReduceSum", spread, body.ints(1), keepdims=0), perm=[1, 0])


def _one_expert(attributes: Mapping[str, Any]) -> onnx.GraphProto:
    """Return the step of one expert: its weighted output for all tokens is added to the total."""
    from onnx import helper

    hidden, inner = int(attributes["hidden_size"]), int(attributes["moe_inter_size"])
    body = FunctionBody("e")
    rows = body.op("Reshape", body.op("Cast", "rows", to=FLOAT), body.ints(inner // BLOCK, 2, BLOCK, hidden))
    up, gate = (
        body.op("MatMul", "x", _turned(body, body.op("Reshape", body.op("Gather", rows, body.integer(half), axis=1),
                                                     body.ints(inner, hidden))))
        for half in (0, 1)
    )  # fmt: skip
    gated = body.op("Mul", body.op("Mul", gate, body.op("Sigmoid", gate)), up)
    output = body.op("MatMul", gated, _turned(body, body.op("Cast", "back", to=FLOAT)))
    weighted = body.op("Mul", output, body.op("Unsqueeze", "weights", body.ints(-1)))
    body.op("Add", "total", weighted, out="further")
    inputs, outputs = (
        [helper.make_empty_tensor_value_info(value) for value in values]
        for values in (("total", "weights", "rows", "back"), ("further",))
    )
    return helper.make_graph(body.nodes, "expert", inputs, outputs)


def _turned(body: FunctionBody, weight: str) -> str:
    return body.op("Transpose", weight, perm=[1, 0])
