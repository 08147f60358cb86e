"""An exported program's fx graph to ONNX, by a table of ATen operators; far faster than ``torch.onnx.export``.

Operators that the table lacks raise ``UnsupportedOperatorError``; the caller then takes the slow way.
"""

from __future__ import annotations

import inspect
import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import onnx
import torch
from onnx import helper
from torch import fx

from edgellm_core.tracing.in_place import functional_name, is_in_place, names_of_changed, obstacle
from edgellm_core.tracing.operators import DOMAIN

OPSET: Final = 23
IR_VERSION: Final = 11
ELEMENT: Final[Mapping[torch.dtype, int]] = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.float16: onnx.TensorProto.FLOAT16,
    torch.bfloat16: onnx.TensorProto.BFLOAT16,
    torch.float64: onnx.TensorProto.DOUBLE,
    torch.int64: onnx.TensorProto.INT64,
    torch.int32: onnx.TensorProto.INT32,
    torch.bool: onnx.TensorProto.BOOL,
}
"""torch element type → ONNX element type."""

_SHARED: Final = frozenset({"AttentionMask", "FullLength"})
"""Operators of our domain that are the same value wherever they have the same inputs."""
_SCALAR_OPERATORS: Final[Mapping[Any, str]] = {
    operator.add: "Add",
    operator.sub: "Sub",
    operator.mul: "Mul",
    operator.floordiv: "Div",
    operator.neg: "Neg",
    torch.sym_min: "Min",
    torch.sym_max: "Max",
}


class UnsupportedOperatorError(Exception):
    """The table has no conversion for an operator, or not for these arguments."""


def onnx_element_type(dtype: torch.dtype) -> int:
    """Return ONNX's number of an element type.

    Raises:
        UnsupportedOperatorError: decoders of ours have no such tensors.
    """
    if dtype not in ELEMENT:
        msg = f"element type {dtype}"
        raise UnsupportedOperatorError(msg)
    return ELEMENT[dtype]


@dataclass
class Converter:
    """State of one conversion.

    Attributes:
        dimensions: symbolic dimension (as torch prints it) → its name in the ONNX graph.
        nodes: ONNX nodes so far, in order.
        initializers: small constants by name.
        values: fx node → name of its value, or names for several outputs.
    """

    dimensions: Mapping[str, str]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    _known: dict[object, Any] = field(default_factory=dict)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def constant(self, value: Any, dtype: torch.dtype | None = None) -> str:
        """Return the name of a constant; equal constants share one."""
        tensor = value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=dtype)
        raw = tensor.detach().contiguous().view(-1)
        data = raw.view(torch.uint8).numpy().tobytes() if raw.numel() else b""
        key = (tensor.dtype, tuple(tensor.shape), data)
        if key not in self._known:
            name = f"constant_{len(self.initializers)}"
            proto = onnx.TensorProto(
                name=name, data_type=onnx_element_type(tensor.dtype), dims=tuple(tensor.shape), raw_data=data
            )
            self.initializers[name] = proto
            self._known[key] = name
        found: str = self._known[key]
        return found

    def ints(self, *values: int) -> str:
        """Return the name of a 1-D int64 constant."""
        return self.constant(values, torch.int64)

    def emit(self, op: str, inputs: Sequence[str], outputs: int = 1, *, domain: str = "", **attributes: Any) -> Any:
        """Add a node, or reuse one that computes the same, and return its output name (names for several)."""
        key = (op, domain, tuple(inputs), outputs, repr(sorted(attributes.items())))
        sharable = not domain or op in _SHARED
        if sharable and key in self._known:
            return self._known[key]
        number = next(self._numbers)
        names = [f"{op.lower()}_{number}" if outputs == 1 else f"{op.lower()}_{number}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"{op}_{number}", domain=domain, **attributes))
        result = names[0] if outputs == 1 else names
        if sharable:
            self._known[key] = result
        return result

    def value(self, argument: Any, dtype: torch.dtype | None = None) -> str:
        """Return the name of an argument, cast to ``dtype`` where it is a tensor of another type."""
        if isinstance(argument, fx.Node):
            name: str = self.values[argument]
            found = argument.meta["val"]
            if dtype is not None and isinstance(found, torch.Tensor) and found.dtype != dtype:
                return str(self.emit("Cast", [name], to=onnx_element_type(dtype)))
            if dtype is not None and not isinstance(found, torch.Tensor) and dtype != torch.int64:
                return str(self.emit("Cast", [name], to=onnx_element_type(dtype)))
            return name
        if isinstance(argument, (bool, int, float)):
            return self.constant(argument, dtype)
        if isinstance(argument, torch.Tensor):
            return self.constant(argument)
        msg = f"argument {argument!r}"
        raise UnsupportedOperatorError(msg)

    def shape(self, dims: Sequence[Any]) -> str:
        """Return the name of a 1-D int64 tensor of dimensions, some of which may be fx nodes."""
        if all(isinstance(dim, int) for dim in dims):
            return self.ints(*dims)
        parts = [
            self.ints(dim) if isinstance(dim, int) else self.emit("Reshape", [self.values[dim], self.ints(-1)])
            for dim in dims
        ]
        return str(self.emit("Concat", parts, axis=0)) if len(parts) > 1 else parts[0]

    def dims(self, tensor: torch.Tensor) -> list[int | str]:
        """Return the dimensions of a fake tensor, symbolic ones by name."""
        return [dim if isinstance(dim, int) else self.dimensions.get(str(dim), str(dim)) for dim in tensor.shape]

    def value_info(self, name: str, tensor: torch.Tensor) -> onnx.ValueInfoProto:
        """Return the ONNX type and shape of a value."""
        return helper.make_tensor_value_info(name, onnx_element_type(tensor.dtype), self.dims(tensor))

    def convert(self, node: fx.Node) -> None:
        """Convert one ``call_function`` node.

        Raises:
            UnsupportedOperatorError: the table has no entry for it, or none for these arguments.
        """
        target = node.target
        if target is operator.getitem:
            self.values[node] = self.values[node.args[0]][node.args[1]]  # type: ignore[index]
        elif target in _SCALAR_OPERATORS:
            inputs = [self.value(argument, torch.int64) for argument in node.args]
            self.values[node] = self.emit(_SCALAR_OPERATORS[target], inputs)
        else:
            conversion = _conversion_of(node)
            try:
                inspect.signature(conversion).bind(self, node, *node.args, **node.kwargs)
            except TypeError as error:
                msg = f"{target} with the arguments {[*node.args[1:], *node.kwargs]}"
                raise UnsupportedOperatorError(msg) from error
            self.values[node] = conversion(self, node, *node.args, **node.kwargs)
            if is_in_place(node):
                self.values.update(dict.fromkeys(names_of_changed(node), self.values[node]))


def _conversion_of(node: fx.Node) -> Conversion:
    from edgellm_core.tracing.aten import TABLE

    name = str(node.target)
    if name not in TABLE and is_in_place(node):
        reason = obstacle(node)
        if reason is not None:
            msg = f"{name} {reason}"
            raise UnsupportedOperatorError(msg)
        name = functional_name(node)
    if name not in TABLE:
        raise UnsupportedOperatorError(str(node.target))
    return TABLE[name]


Conversion = Callable[..., Any]
"""``(converter, node, *args, **kwargs)`` of an fx node → name (or names) of its ONNX value."""


def semantic(converter: Converter, node: fx.Node, inputs: Sequence[Any], op_type: str, *_: Any, **encoded: Any) -> Any:
    """Convert a recorded semantic operator (``torch.onnx.ops.symbolic``)."""
    del node
    names = [converter.value(item) if item is not None else "" for item in inputs]
    attributes: dict[str, Any] = {}
    kinds = zip(encoded["attr_keys"], encoded["attr_types"], encoded["attr_pos"], strict=True)
    for key, kind, (start, _end) in kinds:
        if kind not in {"i", "f"}:
            msg = f"attribute {key!r} of kind {kind!r}"
            raise UnsupportedOperatorError(msg)
        attributes[key] = encoded["attr_ints" if kind == "i" else "attr_floats"][start]
    while names and not names[-1]:
        names.pop()
    assert encoded["domain"] == DOMAIN
    return converter.emit(op_type, names, domain=DOMAIN, **attributes)
