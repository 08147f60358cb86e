"""Random inputs for a graph that nobody has described: by element type, and within what the graph does with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.pipeline.foreign.sizes import dimension_of, evaluate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

_PASSING: Final = frozenset({"Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity", "Expand", "Transpose"})
"""Operators after which ids are still the same ids."""

FLAGS: Final = 2
"""Integers that index no table are 0 or 1."""


def index_limits(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return, for each integer input that looks up rows of a table, the number of rows.

    Args:
        model: the graph.
        shapes: shapes of the initializers by name.
    """
    limits: dict[str, int] = {}
    origin = {value.name: value.name for value in model.graph.input}
    for node in model.graph.node:
        if node.op_type in _PASSING and node.input and node.input[0] in origin:
            origin[node.output[0]] = origin[node.input[0]]
        if node.op_type != "Gather" or node.input[1] not in origin or not shapes.get(node.input[0]):
            continue
        axis = next((int(attribute.i) for attribute in node.attribute if attribute.name == "axis"), 0)
        name, rows = origin[node.input[1]], shapes[node.input[0]][axis]
        limits[name] = min(rows, limits.get(name, rows))
    return limits


def random_inputs(
    values: Sequence[onnx.ValueInfoProto], sizes: Mapping[str, int], limits: Mapping[str, int], seed: int
) -> dict[str, np.ndarray[Any, Any]]:
    """Return inputs by name.

    Floats are normally distributed. Integers are below the rows of the table that they index; a mask (by its name)
    hides nothing, or with an even seed above 0 the second position of the last row; positions count up. The first stays
    visible: a query that sees no key gets another mean of values from each way to compute it in float16, and none of
    them means anything.

    Args:
        values: the graph's inputs.
        sizes: sizes of the symbols.
        limits: rows of tables, by input.
        seed: decides the numbers.
    """
    import onnx

    generator = np.random.default_rng(seed)
    inputs = {}
    for value in values:
        tensor = value.type.tensor_type
        shape = [evaluate(dimension_of(value, axis), sizes) for axis in range(len(tensor.shape.dim))]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        inputs[value.name] = _random(
            value.name, shape, dtype, limits.get(value.name), generator, hide=seed > 0 and seed % 2 == 0
        )
    return inputs


def _random(
    name: str,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    limit: int | None,
    generator: np.random.Generator,
    *,
    hide: bool,
) -> np.ndarray[Any, Any]:
    if "mask" in name.lower() and not np.issubdtype(dtype, np.floating):
        mask = np.ones(shape, dtype)
        if hide and len(shape) == 2 and shape[1] > 1:
            mask[-1, 1] = 0
        return mask
    if np.issubdtype(dtype, np.integer):
        if "position" in name.lower():
            return np.broadcast_to(np.arange(shape[-1] if shape else 1) % (limit or 1 << 30), shape).astype(dtype)
        return generator.integers(0, limit or FLAGS, shape).astype(dtype)
    if dtype == np.bool_:
        return generator.integers(0, 2, shape).astype(dtype)
    return generator.standard_normal(shape).astype(dtype)
