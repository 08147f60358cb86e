"""Sizes for the symbolic dimensions of a graph's inputs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from edgellm_core.errors import InvalidSettingError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

_CASES: Final = ((2, 7, 5, 3), (1, 1, 4, 2), (3, 12, 1, 6))
"""Sizes that the symbols get in turn, in the order in which they occur: all different, with a single one, longer."""

_TERM: Final = re.compile(r"\s*([+-]?)\s*(\d+|[^\s+\-*/()]+)")
"""A symbol or number with its sign; exporters name sums so, for example ``past_sequence_length + 1``."""


def symbols_of(values: Sequence[onnx.ValueInfoProto]) -> list[str]:
    """Return the symbols of a graph's inputs in order; a dimension without a name is called ``INPUT.AXIS``."""
    found: dict[str, None] = {}
    for value in values:
        for axis in range(len(value.type.tensor_type.shape.dim)):
            dimension = dimension_of(value, axis)
            if isinstance(dimension, str):
                found.update(dict.fromkeys(name for _, name in terms(dimension) if not name.isdigit()))
    return list(found)


def dimension_of(value: onnx.ValueInfoProto, axis: int) -> int | str:
    """Return one dimension of an input: a number, or what it is called."""
    dimension = value.type.tensor_type.shape.dim[axis]
    if dimension.HasField("dim_value") and dimension.dim_value >= 0:
        return int(dimension.dim_value)
    return str(dimension.dim_param) or f"{value.name}.{axis}"


def terms(expression: str) -> list[tuple[int, str]]:
    """Take a sum apart into signs and symbols or numbers; anything else is one symbol as a whole."""
    found = list(_TERM.finditer(expression))
    if "".join(match.group(0) for match in found).strip() != expression.strip():
        return [(1, expression)]
    return [(-1 if match.group(1) == "-" else 1, match.group(2)) for match in found]


def size_cases(values: Sequence[onnx.ValueInfoProto], given: Mapping[str, int]) -> list[list[dict[str, int]]]:
    """Return sizes for the symbols of inputs, case by case; each case is a list of attempts.

    Args:
        values: the inputs.
        given: sizes that hold in every case.

    Raises:
        UnknownNameError: a size is given for a symbol that does not exist.
        InvalidSettingError: a size is negative.
    """
    symbols = symbols_of(values)
    for name, size in given.items():
        if name not in symbols:
            raise UnknownNameError("dimension", name, symbols)
        if size < 0:
            raise InvalidSettingError(
                "--dim", "must be 0 or more", f"{name}={size}", "Give a size that the model takes."
            )
    cases: list[list[dict[str, int]]] = []
    for sizes in _CASES:
        plain = {name: sizes[index % len(sizes)] for index, name in enumerate(symbols)}
        case = [plain | _as_decoder(values, sizes) | dict(given), plain | dict(given)]
        if case not in cases:
            cases.append(case)
    return cases


def _as_decoder(values: Sequence[onnx.ValueInfoProto], sizes: Sequence[int]) -> dict[str, int]:
    """Return sizes that fit one another in a decoder whose exporter gave each dimension a symbol of its own.

    The first axis is the batch; states ``[batch, heads, past, …]`` have the past, a mask past and new positions, and
    other inputs new positions.
    """
    batch, seq, past, _ = sizes
    has_past = any(len(value.type.tensor_type.shape.dim) == 4 for value in values)
    found: dict[str, int] = {}
    for value in values:
        depth = len(value.type.tensor_type.shape.dim)
        length = seq + past if has_past and "mask" in value.name.lower() else seq
        for axis, size in {0: batch, **({2: past} if depth == 4 else {1: length} if depth == 2 else {})}.items():
            symbol = dimension_of(value, axis) if axis < depth else 0
            if isinstance(symbol, str) and terms(symbol) == [(1, symbol)]:
                found.setdefault(symbol, size)
    return found


def evaluate(dimension: int | str, sizes: Mapping[str, int]) -> int:
    """Return the size of a dimension."""
    if isinstance(dimension, int):
        return dimension
    total = sum(sign * (int(name) if name.isdigit() else sizes[name]) for sign, name in terms(dimension))
    return max(total, 0)


def described(sizes: Mapping[str, int]) -> str:
    """Return sizes for a message."""
    return ", ".join(f"{name}={size}" for name, size in sizes.items()) or "the fixed sizes of its inputs"
