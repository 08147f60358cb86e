"""Writes operators that ONNX Runtime lacks on the CPU in those that it has, over the same stored bytes.

ONNX Runtime 1.32 has no kernel for FLOAT4E2M1, and TensorRT's dynamic quantizers are not ONNX operators at all. In the
expanded graph low-bit *activations* are FLOAT tensors that hold exactly the low-bit numbers; packed *weights* stay
where they lie, read as UINT8. All arithmetic is FLOAT; a result has the type that the compact operator gives it.

==================================  ====================================================================================
``trt::TRT_FP4DynamicQuantize``     block scale = E4M3(max |x| / 6 / global); y = E2M1(x / (block scale · global))
``trt::TRT_MXFP8DynamicQuantize``   block scale = least 2^e ≥ max |x| / 448; y = E4M3(x / block scale)
``trt::TRT_MXFP8DequantizeLinear``  x · 2^(scale − 127)
``DequantizeLinear``                of E2M1 weights and of the quantizers' results: x · scale
==================================  ====================================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgellm_core.quantization.formats import LARGEST_E2M1, LARGEST_E4M3

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

DYNAMIC_QUANTIZERS: Final = ("TRT_FP4DynamicQuantize", "TRT_MXFP8DynamicQuantize")
MX_DEQUANTIZER: Final = "TRT_MXFP8DequantizeLinear"

E2M1: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Magnitudes of FLOAT4E2M1 by their three low bits (OCP MX 1.0, table 5)."""

SMALLEST_E4M3: Final = 2.0**-9
"""Smallest positive FLOAT8E4M3FN: a block's scale never becomes zero."""

E8M0_BIAS: Final = 127
"""A scale E8M0 is two to its byte minus this (OCP MX 1.0, table 7)."""

LAST: Final = -1
"""The last axis."""

CONSTANT: Final = "expanded.constant."
"""Beginning of the names of the constants of an expanded graph."""

FLOAT, UINT8, INT32, INT64, FLOAT8E4M3FN, FLOAT4E2M1 = 1, 2, 6, 7, 17, 23
"""``onnx.TensorProto.DataType``."""


def needs_expansion(model: onnx.ModelProto) -> bool:
    """Return whether the graph has E2M1 weights or operators of TensorRT that quantize."""
    graph = model.graph
    return any(node.op_type in (*DYNAMIC_QUANTIZERS, MX_DEQUANTIZER) for node in graph.node) or any(
        tensor.data_type == FLOAT4E2M1 for tensor in graph.initializer
    )


def expand(model: onnx.ModelProto) -> None:
    """Rewrite ``model`` in place; tensors between operators keep their names, stored weights their bytes."""
    writer = _Writer()
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == FLOAT4E2M1:
            _unpack(tensor, writer)
    for node in graph.node:
        if node.op_type == "TRT_FP4DynamicQuantize":
            _quantize_nvfp4(node, writer)
        elif node.op_type == "TRT_MXFP8DynamicQuantize":
            _quantize_mxfp8(node, writer)
        elif node.op_type == MX_DEQUANTIZER:
            _dequantize_mxfp8(node, writer)
        elif node.op_type == "DequantizeLinear" and writer.blocked_last(node):
            _dequantize(node, writer)
        else:
            writer.keep(node)
    del graph.node[:]
    graph.node.extend(writer.nodes)
    graph.initializer.extend(writer.constants.values())
    kept = [value for value in graph.value_info if value.name not in writer.numbers]
    del graph.value_info[:]
    graph.value_info.extend(kept)


class _Writer:
    """Collects the nodes of the new graph.

    Attributes:
        nodes: in order.
        constants: new small initializers by name.
        numbers: tensors that hold low-bit numbers as FLOAT, with their last axis where it is known.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.numbers: dict[str, int] = {}

    def keep(self, node: onnx.NodeProto) -> None:
        """Take a node over; moving low-bit numbers leaves them what they are."""
        if node.op_type in ("Transpose", "Reshape", "Identity") and node.input[0] in self.numbers:
            self.numbers[node.output[0]] = LAST
        self.nodes.append(node)

    def blocked_last(self, node: onnx.NodeProto) -> bool:
        """Return whether a node scales low-bit numbers by a scalar or by blocks of the last axis.

        Others stay as they are, and ONNX Runtime refuses the graph by their name.
        """
        if node.input[0] not in self.numbers:
            return False
        return not _block_size(node) or _attribute(node, "axis", 1) in (LAST, self.numbers[node.input[0]])

    def op(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Write a node and return its output."""
        from onnx import helper

        out = out or f"{inputs[0]}/expanded.{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=f"{out}/{kind}", **attributes))
        return out

    def constant(self, value: float | Sequence[float], data_type: int = FLOAT) -> str:
        """Return the name of a constant; a number is a scalar, a sequence a vector."""
        from onnx import helper

        values, shape = ([value], []) if isinstance(value, (int, float)) else (list(value), [len(value)])
        name = f"{CONSTANT}{data_type}.{value if len(values) < 8 else len(values)}"
        self.constants.setdefault(name, helper.make_tensor(name, data_type, shape, values))
        return name

    def floats(self, name: str) -> str:
        """Return a tensor as FLOAT."""
        return name if name in self.numbers else self.op("Cast", name, to=FLOAT)

    def blocks(self, value: str, size: int) -> str:
        """Return ``[…, n]`` as ``[…, n / size, size]``."""
        outer = self.op("Shape", value, end=-1)
        return self.op("Reshape", value, self.op("Concat", outer, self.constant([-1, size], INT64), axis=0))

    def scaled(self, value: str, scale: str, size: int) -> str:
        """Return ``[…, n]`` times one scale ``[…, n / size]`` for each block, or times a scalar if ``size`` is 0."""
        if not size:
            return self.op("Mul", value, scale)
        column = self.op("Unsqueeze", scale, self.constant([-1], INT64))
        product = self.op("Mul", self.blocks(value, size), column)
        return self.op("Reshape", product, self.op("Shape", value))


def _unpack(tensor: onnx.TensorProto, writer: _Writer) -> None:
    """Read an E2M1 initializer as bytes, two numbers each, the first in the low four bits (onnx.proto, raw_data).

    Both numbers of a byte come from one table: with bit operators ONNX Runtime needs twice the memory to fold them.
    """
    name, shape = tensor.name, list(tensor.dims)
    tensor.name, tensor.data_type = f"{name}/packed", UINT8
    tensor.dims[:] = [*shape[:-1], shape[-1] // 2]
    numbers = (*E2M1, *(-value for value in E2M1))
    pairs = [number for byte in range(256) for number in (numbers[byte & 15], numbers[byte >> 4])]
    table = writer.op("Reshape", writer.constant(pairs), writer.constant([256, 2], INT64))
    found = writer.op("Gather", table, writer.op("Cast", tensor.name, to=INT32))
    writer.op("Reshape", found, writer.constant(shape, INT64), out=name)
    writer.numbers[name] = len(shape) - 1


def _quantize_nvfp4(node: onnx.NodeProto, writer: _Writer) -> None:
    """Write ``(y, block scale) = TRT_FP4DynamicQuantize(x, global scale)`` (TensorRT, *Quantization Schemes*)."""
    x, global_scale = (writer.floats(name) for name in node.input)
    blocks = writer.blocks(x, _block_size(node))
    largest = writer.op("ReduceMax", writer.op("Abs", blocks), writer.constant([-1], INT64))
    wanted = writer.op("Div", writer.op("Div", largest, writer.constant(LARGEST_E2M1)), global_scale)
    clipped = writer.op("Clip", wanted, writer.constant(SMALLEST_E4M3), writer.constant(LARGEST_E4M3))
    scale = _e4m3(clipped, writer)
    ratio = writer.op("Div", blocks, writer.op("Mul", scale, global_scale))
    writer.op("Reshape", _e2m1(ratio, writer), writer.op("Shape", x), out=node.output[0])
    writer.op("Squeeze", scale, writer.constant([-1], INT64), out=node.output[1])
    writer.numbers.update(dict.fromkeys(node.output, LAST))


def _quantize_mxfp8(node: onnx.NodeProto, writer: _Writer) -> None:
    """Write ``(y, block scale) = TRT_MXFP8DynamicQuantize(x)``; the exponent is rounded up (ModelOpt, cuDNN)."""
    x = writer.floats(node.input[0])
    blocks = writer.blocks(x, _block_size(node))
    largest = writer.op("ReduceMax", writer.op("Abs", blocks), writer.constant([-1], INT64))
    ratio = writer.op("Div", largest, writer.constant(LARGEST_E4M3))
    scale = _power_of_two(ratio, writer)
    rounded = _e4m3(writer.op("Div", blocks, scale), writer)
    writer.op("Reshape", rounded, writer.op("Shape", x), out=node.output[0])
    writer.op("Squeeze", scale, writer.constant([-1], INT64), out=node.output[1])
    writer.numbers.update(dict.fromkeys(node.output, LAST))


def _dequantize_mxfp8(node: onnx.NodeProto, writer: _Writer) -> None:
    x, scale = node.input
    if scale not in writer.numbers:
        exponent = writer.op("Sub", writer.floats(scale), writer.constant(float(E8M0_BIAS)))
        scale = writer.op("Pow", writer.constant(2.0), exponent)
    product = writer.scaled(writer.floats(x), scale, _block_size(node))
    writer.op("Cast", product, out=node.output[0], to=_attribute(node, "output_dtype", FLOAT))


def _dequantize(node: onnx.NodeProto, writer: _Writer) -> None:
    product = writer.scaled(node.input[0], writer.floats(node.input[1]), _block_size(node))
    writer.op("CastLike", product, node.input[1], out=node.output[0])


def _power_of_two(ratio: str, writer: _Writer) -> str:
    """Return the least power of two that is not below ``ratio``; the logarithm alone may be off by one."""
    two, one = writer.constant(2.0), writer.constant(1.0)
    exponent = writer.op("Ceil", writer.op("Div", writer.op("Log", ratio), writer.op("Log", two)))
    limits = writer.constant(-float(E8M0_BIAS)), writer.constant(float(E8M0_BIAS))
    exponent = writer.op("Clip", exponent, *limits)
    lower = writer.op("Sub", exponent, one)
    enough = writer.op("GreaterOrEqual", writer.op("Pow", two, lower), ratio)
    exponent = writer.op("Where", enough, lower, exponent)
    short = writer.op("Less", writer.op("Pow", two, exponent), ratio)
    exponent = writer.op("Where", short, writer.op("Add", exponent, one), exponent)
    return writer.op("Pow", two, writer.op("Clip", exponent, *limits))


def _e4m3(value: str, writer: _Writer) -> str:
    """Round to the nearest E4M3, ties to even, clipped (ONNX, Cast with ``saturate``)."""
    return writer.op("Cast", writer.op("Cast", value, to=FLOAT8E4M3FN, saturate=1), to=FLOAT)


def _e2m1(value: str, writer: _Writer) -> str:
    """Round to the nearest E2M1, ties to the even code: steps of 1/2 below 2, 1 below 4, 2 from there on."""
    size = writer.op("Abs", value)
    coarse = writer.op(
        "Where", writer.op("Less", size, writer.constant(4.0)), writer.constant(1.0), writer.constant(2.0)
    )
    step = writer.op("Where", writer.op("Less", size, writer.constant(2.0)), writer.constant(0.5), coarse)
    nearest = writer.op("Mul", writer.op("Round", writer.op("Div", size, step)), step)
    clipped = writer.op("Min", nearest, writer.constant(LARGEST_E2M1))
    return writer.op("Mul", clipped, writer.op("Sign", value))


def _block_size(node: onnx.NodeProto) -> int:
    return _attribute(node, "block_size", 0)


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(item.i) for item in node.attribute if item.name == name), default)
