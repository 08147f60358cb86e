"""``Int4GroupwiseGemmPluginV2`` and ``QkvConcatPlugin`` as ONNX functions, written from the contract alone.

Weights lie in fragments: row ``((block · K / 64 + tile) · 4 + step) · 2 + half`` holds 128 little-endian words of eight
nibbles. Nibble ``4 · odd + 2 · upper + far`` of word ``4 · n + column`` is the weight, plus 8, of output ``128 · block
+ 64 · half + 32 · upper + n`` and input ``64 · tile + 16 · step + 8 · far + 2 · column + odd``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgellm_core.runtime.paged.function_body import FLOAT, INT32, FunctionBody

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx


def int4_function(name: str, attributes: Mapping[str, Any]) -> onnx.FunctionProto:
    """Return the product of ``x`` ``[…, K]`` and the weight that is stored as int8 ``[rows, 512]``.

    Args:
        name: of the function.
        attributes: ``gemm_n``, ``gemm_k`` and ``group_size``.
    """
    outputs, inputs, group = (int(attributes[key]) for key in ("gemm_n", "gemm_k", "group_size"))
    blocks, tiles = -(-outputs // 128), inputs // 64
    body = FunctionBody()
    byte = body.op("Mod", body.op("Cast", "weight", to=INT32), _int32(body, 256))
    low = body.op("Mod", byte, _int32(body, 16))
    high = body.op("Div", byte, _int32(body, 16))
    last = body.ints(-1)
    nibbles = body.op("Concat", body.op("Unsqueeze", low, last), body.op("Unsqueeze", high, last), axis=-1)
    # [block, tile, step, half, n, column, odd, upper, far] → [block, half, upper, n, tile, step, far, column, odd]
    placed = body.op("Reshape", nibbles, body.ints(blocks, tiles, 4, 2, 32, 4, 2, 2, 2))
    turned = body.op("Transpose", placed, perm=[0, 3, 7, 4, 1, 2, 8, 5, 6])
    whole = body.op("Reshape", turned, body.ints(blocks * 128, inputs))
    codes = body.op("Slice", whole, body.ints(0), body.ints(outputs), body.ints(0))
    numbers = body.op("Cast", body.op("Sub", codes, _int32(body, 8)), to=FLOAT)
    grouped = body.op("Reshape", numbers, body.ints(outputs, inputs // group, group))
    scales = body.op("Transpose", body.op("Cast", "scales", to=FLOAT), perm=[1, 0])
    scaled = body.op("Mul", grouped, body.op("Unsqueeze", scales, last))
    weight = body.op("Transpose", body.op("Reshape", scaled, body.ints(outputs, inputs)), perm=[1, 0])
    body.op("CastLike", body.op("MatMul", body.op("Cast", "x", to=FLOAT), weight), "x", out="product")
    return body.function(name, ["x", "weight", "scales"], ["product"])


def join_function(name: str, attributes: Mapping[str, Any]) -> onnx.FunctionProto:
    """Return queries, keys and values side by side."""
    del attributes
    body = FunctionBody()
    body.op("Concat", "query", "key", "value", out="joined", axis=-1)
    return body.function(name, ["query", "key", "value"], ["joined"])


def _int32(body: FunctionBody, value: int) -> str:
    return body.op("Cast", body.integer(value), to=INT32)
