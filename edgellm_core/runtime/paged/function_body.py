"""Writes the body of an ONNX function, node by node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

DOMAIN: Final = "trt_edgellm"
"""Domain of the plugins of TensorRT-Edge-LLM."""

OPSET: Final = 23

FLOAT, INT32, INT64, FLOAT16, FLOAT8 = 1, 6, 7, 10, 17
"""``onnx.TensorProto.DataType``; FLOAT8 is E4M3FN."""


class FunctionBody:
    """Collects the nodes of a function.

    Attributes:
        nodes: in order.
    """

    def __init__(self, prefix: str = "v") -> None:
        """Begin without nodes.

        Args:
            prefix: start of the names of values; that of a graph in a node differs from that of the function.
        """
        self.nodes: list[onnx.NodeProto] = []
        self._prefix = prefix

    def op(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Write a node and return its output."""
        from onnx import helper

        out = out or f"{self._prefix}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def ops(self, kind: str, *inputs: str, outs: Sequence[str], **attributes: Any) -> Sequence[str]:
        """Write a node with several outputs and return them."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, list(inputs), list(outs), **attributes))
        return outs

    def ints(self, *values: int) -> str:
        """Return an int64 vector."""
        return self.op("Constant", value_ints=list(values))

    def number(self, value: float) -> str:
        """Return a float32 scalar."""
        return self.op("Constant", value_float=float(value))

    def integer(self, value: int) -> str:
        """Return an int64 scalar."""
        return self.op("Constant", value_int=value)

    def function(self, name: str, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.FunctionProto:
        """Return the function of the nodes."""
        from onnx import helper

        return helper.make_function(
            DOMAIN, name, list(inputs), list(outputs), self.nodes, [helper.make_opsetid("", OPSET)]
        )
