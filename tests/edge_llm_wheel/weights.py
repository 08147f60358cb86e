"""Weights by what they do, with every layout undone: of an exported graph, and of a checkpoint.

A role, like ``layers.0.qkv``, has parts with one row for each output: ``weight`` [out, in] as it is stored (float16
numbers, or codes), ``weight_scale``, ``input_scale``, ``bias``. Fused projections are one role, whether they are one
product or several; scales of a whole tensor are repeated for each of its rows. Experts have ``gate_up``
[experts, gates then ups, in] and ``down`` [experts, out, in].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from tests.edge_llm_wheel.graph import Graph, attributes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx

Parts = dict[str, np.ndarray]
Weights = dict[str, Parts]

PRODUCTS: Final = ("MatMul", "Gemm", "Int4GroupwiseGemmPluginV2")
PASSED: Final = ("Reshape", "Cast", "Identity", "Squeeze", "Unsqueeze")
JOINS: Final = ("Concat", "QkvConcatPlugin")
EXPERTS: Final = "Fp16MoePlugin"
BLOCK: Final = 64
"""Rows of up, then as many of gate, and so on, of each expert (the wheel's ``repack_fp16_moe_experts``)."""

NORMS: Final = ("Mul", "RMSNormalization", "SimplifiedLayerNormalization", "RmsNormPlugin")
ACTIVATIONS: Final = ("Sigmoid", "Swish", "Gelu")

PLACES: Final = ((0, 0), (0, 8), (32, 0), (32, 8), (0, 1), (0, 9), (32, 1), (32, 9))
"""Offsets of output and input of the eight numbers of a packed word, from the lowest four bits on (contract, A.5)."""


def exported_weights(graph: Graph) -> Weights:
    """Return the weights of an exported decoder: attention, one projection, a gated MLP, and the head."""
    attentions = [node for node in graph.nodes if node.op_type == "AttentionPlugin"]
    found: Weights = {}
    taken: set[str] = set()
    for index, node in enumerate(attentions):
        products = list(products_of(graph, node.input[0]))
        taken |= {product.output[0] for product, _ in products}
        found[f"layers.{index}.qkv"] = joined([parts_of(graph, *pair) for pair in products])
        gammas = [graph.constant(name) for name in node.input if graph.is_constant(name)]
        found |= {f"layers.{index}.head_norm.{place}": {"weight": gamma} for place, gamma in enumerate(gammas)}
    rest: list[list[onnx.NodeProto]] = []
    for node in graph.nodes:
        if node.op_type == "AttentionPlugin":
            rest.append([])
        elif node.op_type == EXPERTS or (is_product(graph, node) and node.output[0] not in taken):
            rest[-1].append(node)
    head = rest[-1].pop()
    for index, layer in enumerate(rest):
        found |= {f"layers.{index}.{role}": parts for role, parts in mlp_roles(graph, layer)}
    found["head"] = parts_of(graph, head)
    found |= {f"channels.{place}": {"weight": scale} for place, scale in enumerate(channel_scales(graph))}
    found["norms"] = {"epsilon": np.array(epsilons(graph), np.float32)}
    return found


def mlp_roles(graph: Graph, layer: Sequence[onnx.NodeProto]) -> Iterator[tuple[str, Parts]]:
    """Yield what follows an attention: data flow leaves one order, but for gate and up."""
    first, *middle, last = layer
    if last.op_type == EXPERTS:
        [router] = middle
        yield "router", parts_of(graph, router)
        yield "experts", experts_parts(graph, last)
        yield "o", parts_of(graph, first)
        return
    middle.sort(key=lambda node: not any(taker.op_type in ACTIVATIONS for taker in graph.takers(node.output[0])))
    yield "o", parts_of(graph, first)
    yield "gate_up", joined([parts_of(graph, node) for node in middle])
    yield "down", parts_of(graph, last)


def experts_parts(graph: Graph, node: onnx.NodeProto) -> Parts:
    """Return the weights of experts."""
    mixed, down = (graph.constant(name) for name in node.input[2:4])
    experts, rows, inputs = mixed.shape
    halves = mixed.reshape(experts, rows // (2 * BLOCK), 2, BLOCK, inputs).transpose(2, 0, 1, 3, 4)
    up, gate = halves.reshape(2, experts, rows // 2, inputs)
    return {"gate_up": np.concatenate([gate, up], axis=1), "down": down}


def is_product(graph: Graph, node: onnx.NodeProto) -> bool:
    """Say whether a node multiplies by a weight, stored as it is or quantized."""
    return node.op_type in PRODUCTS and (
        graph.is_constant(node.input[1])
        or getattr(graph.maker(node.input[1]), "op_type", "") in {*PASSED, "Transpose", "DequantizeLinear"}
    )


def products_of(graph: Graph, name: str, bias: str | None = None) -> Iterator[tuple[onnx.NodeProto, np.ndarray | None]]:
    """Yield the products whose outputs, joined, are a value, each with its bias."""
    node = graph.maker(name)
    if node is None:
        raise ValueError(name)
    if is_product(graph, node):
        yield node, None if bias is None else graph.constant(bias)
    elif node.op_type in PASSED:
        yield from products_of(graph, node.input[0], bias)
    elif node.op_type in JOINS:
        for part in node.input:
            yield from products_of(graph, part)
    elif node.op_type == "Add":
        constant, value = sorted(node.input, key=graph.is_constant, reverse=True)
        yield from products_of(graph, value, constant)
    else:
        message = f"{name} is made by {node.op_type}, not by products"
        raise ValueError(message)


def parts_of(graph: Graph, node: onnx.NodeProto, bias: np.ndarray | None = None) -> Parts:
    """Return weight, scales and bias of a product."""
    if node.op_type == "Int4GroupwiseGemmPluginV2":
        settings = attributes(node)
        weight, scale = (graph.constant(name) for name in node.input[1:3])
        codes = unpacked(weight, settings["gemm_n"], settings["gemm_k"])
        parts = {"weight": codes, "weight_scale": scale.T}
    else:
        turned = node.op_type == "MatMul" or not attributes(node).get("transB", 0)
        parts = {**stored_weight(graph, node.input[1], turned=turned), **input_scales(graph, node.input[0])}
    if node.op_type == "Gemm" and len(node.input) > 2:
        bias = graph.constant(node.input[2])
    return by_rows({**parts, **({} if bias is None else {"bias": bias})})


def stored_weight(graph: Graph, name: str, *, turned: bool) -> Parts:
    """Return weight [out, in] and scales behind the second operand of a product."""
    array = graph.constant(name)
    if array is not None:
        return {"weight": array.T if turned else array}
    node = graph.maker(name)
    if node.op_type == "Transpose":
        return stored_weight(graph, node.input[0], turned=not turned)
    if node.op_type in PASSED:
        return stored_weight(graph, node.input[0], turned=turned)
    if node.op_type != "DequantizeLinear":
        message = f"{name} is made by {node.op_type}"
        raise ValueError(message)
    codes, scale = bits(graph.constant(node.input[0])), graph.constant(node.input[1])
    if scale is not None:
        return {"weight": codes.T if turned else codes, "weight_scale": scale}
    of_scale = graph.maker(node.input[1])
    first, second = (graph.constant(name) for name in of_scale.input[:2])
    return {"weight": codes.T if turned else codes, "weight_scale": bits(first), "weight_scale_2": second}


def input_scales(graph: Graph, name: str) -> Parts:
    """Return the scales with which an input is rounded; nothing where it is not."""
    node = graph.maker(name)
    while node is not None and node.op_type in PASSED:
        node = graph.maker(node.input[0])
    if node is None or node.op_type != "DequantizeLinear":
        return {}
    scale = graph.constant(node.input[1])
    if scale is not None:
        return {"input_scale": scale}
    second = graph.maker(node.input[1])  # the scales of blocks are dequantized too
    rounded = graph.maker(node.input[0])
    return {"input_scale": graph.constant(rounded.input[1]), "input_scale_back": graph.constant(second.input[1])}


def channel_scales(graph: Graph) -> list[np.ndarray]:
    """Return what multiplies the channels of the hidden state, in order: norms, and smoothing that does something."""
    found = []
    for node in graph.nodes:
        constants = [graph.constant(name) for name in node.input if graph.is_constant(name)]
        if node.op_type in NORMS and len(constants) == 1 and constants[0].ndim == 1 and constants[0].size > 1:
            found += [] if np.all(constants[0] == 1) else constants
    return found


def epsilons(graph: Graph) -> list[float]:
    """Return what each norm over the hidden state adds to the mean of the squares, in order."""
    found = []
    for node in graph.nodes:
        if node.op_type == "RMSNormalization":
            found.append(attributes(node)["epsilon"])
        elif node.op_type == "Add" and getattr(graph.maker(node.input[0]), "op_type", "") == "ReduceMean":
            found.append(float(graph.constant(node.input[1])))
    return found


def joined(layers: Sequence[Parts]) -> Parts:
    """Return layers under each other."""
    return {name: np.concatenate([parts[name] for parts in layers]) for name in layers[0]}


def by_rows(parts: Parts) -> Parts:
    """Return parts with one row for each output."""
    rows = len(parts["weight"])
    return {
        name: array if array.ndim and array.shape[0] == rows else np.full((rows, 1), array)
        for name, array in parts.items()
    }


def bits(array: np.ndarray) -> np.ndarray:
    """Return numbers of 4 or 8 bits as the bytes that hold them."""
    return array if array.dtype.kind in "fiu" and array.dtype.itemsize > 1 else array.view(np.uint8)


def unpacked(packed: np.ndarray, outputs: int, inputs: int) -> np.ndarray:
    """Return the numbers [outputs, inputs] of a weight in fragment order, word by word as the contract says."""
    words = np.ascontiguousarray(packed).view("<u4")
    row, thread = np.indices(words.shape)
    tile, place = np.divmod(row, 8)
    block, column_tile = np.divmod(tile, inputs // 64)
    output = block * 128 + thread // 4 + 64 * (place % 2)
    column = column_tile * 64 + 16 * (place // 2) + 2 * (thread % 4)
    numbers = np.full((-(-outputs // 128) * 128, inputs), 99, np.int8)
    for index, (further, right) in enumerate(PLACES):
        numbers[output + further, column + right] = ((words >> (4 * index)) & 15).astype(np.int8) - 8
    return numbers[:outputs]
