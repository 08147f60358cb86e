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
    from collections.abc import Mapping, Sequence

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
    require_values("Fp16MoePlugin", attributes, _ONLY)
    hidden, inner = int(attributes["hidden_size"]), int(attributes["moe_inter_size"])
    body = FunctionBody("e")
    rows = body.op("Reshape", body.op("Cast", "fc1_one", to=FLOAT), body.ints(inner // BLOCK, 2, BLOCK, hidden))
    up, gate = (
        body.op("Reshape", body.op("Gather", rows, body.integer(half), axis=1), body.ints(inner, hidden))
        for half in (0, 1)
    )
    add_expert(body, gate, up, body.op("Cast", "fc2_one", to=FLOAT))
    normalised = bool(attributes["norm_topk_prob"])
    return mixture_function(name, attributes, ("fc1", "fc2"), body, normalised=normalised)


def require_values(plugin: str, attributes: Mapping[str, Any], needed: Mapping[str, int]) -> None:
    """Refuse attributes with other values than those that there is a reference for.

    Raises:
        PluginAttributeError: naming the first one.
    """
    for flag, value in needed.items():
        if attributes.get(flag, value) != value:
            raise PluginAttributeError(flag, plugin, value)


def add_expert(body: FunctionBody, gate: str, up: str, down: str) -> None:
    """Write what one expert adds to the total.

    Args:
        body: of :func:`mixture_function`.
        gate: float32 ``[inner, hidden]``.
        up: like ``gate``.
        down: float32 ``[hidden, inner]``.
    """
    gated, plain = (body.op("MatMul", "x", body.op("Transpose", weight, perm=[1, 0])) for weight in (gate, up))
    inner = body.op("Mul", body.op("Mul", gated, body.op("Sigmoid", gated)), plain)
    output = body.op("MatMul", inner, body.op("Transpose", down, perm=[1, 0]))
    weighted = body.op("Mul", output, body.op("Unsqueeze", "weights", body.ints(-1)))
    body.op("Add", "total", weighted, out="further")


def mixture_function(
    name: str, attributes: Mapping[str, Any], stacks: Sequence[str], one: FunctionBody, *, normalised: bool
) -> onnx.FunctionProto:
    """Return a function of router logits, tokens and stacks ``[experts, …]`` that mixes the chosen experts.

    Args:
        name: of the function.
        attributes: ``num_experts`` and ``top_k`` are read.
        stacks: names of the stacks.
        one: adds what one expert makes of ``x`` to ``total``; it reads ``weights`` ``[tokens]``, and of each stack
            ``NAME_one``, and ends with :func:`add_expert`.
        normalised: divide the weights of the chosen by their sum.
    """
    from onnx import helper

    items = ["total", "weights", *(f"{stack}_one" for stack in stacks)]
    inputs, outputs = (
        [helper.make_empty_tensor_value_info(value) for value in values] for values in (items, ("further",))
    )
    step = helper.make_graph(one.nodes, "expert", inputs, outputs)
    body = FunctionBody()
    routing = _routing(body, attributes, normalised=normalised)
    start = body.op("Mul", body.op("Cast", "hidden", to=FLOAT, out="x"), body.number(0.0))
    total = body.op("Scan", start, routing, *stacks, body=step, num_scan_inputs=1 + len(stacks))
    body.op("CastLike", total, "hidden", out="mixed")
    return body.function(name, ["logits", "hidden", *stacks], ["mixed"])


def _routing(body: FunctionBody, attributes: Mapping[str, Any], *, normalised: bool) -> str:
    """Return the weight of each expert for each token, ``[experts, tokens]``, 0 where it was not chosen."""
    last = body.ints(-1)
    shares = body.op("Softmax", "logits", axis=-1)
    values, index = body.ops("TopK", shares, body.ints(int(attributes["top_k"])), outs=("values", "index"), axis=-1)
    if normalised:
        values = body.op("Div", values, body.op("ReduceSum", values, last, keepdims=1))
    experts = body.op("Range", body.integer(0), body.integer(int(attributes["num_experts"])), body.integer(1))
    chosen = body.op("Equal", body.op("Unsqueeze", index, last), experts)
    spread = body.op("Where", chosen, body.op("Unsqueeze", values, last), body.number(0.0))
    return body.op("Transpose", body.op("ReduceSum", spread, body.ints(1), keepdims=0), perm=[1, 0])
