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


def size_cases(symbols: Sequence[str], given: Mapping[str, int]) -> list[dict[str, int]]:
    """Return sizes for the symbols, case by case.

    Args:
        symbols: all there are.
        given: sizes that hold in every case.

    Raises:
        UnknownNameError: a size is given for a symbol that does not exist.
        InvalidSettingError: a size is negative.
    """
    for name, size in given.items():
        if name not in symbols:
            raise UnknownNameError("dimension", name, symbols)
        if size < 0:
            raise InvalidSettingError(
                "--dim", "must be 0 or more", f"{name}={size}", "Give a size that the model takes."
            )
    cases: list[dict[str, int]] = []
    for sizes in _CASES:
        case = {name: sizes[index % len(sizes)] for index, name in enumerate(symbols)} | dict(given)
        if case not in cases:
            cases.append(case)
    return cases


def evaluate(dimension: int | str, sizes: Mapping[str, int]) -> int:
    """Return the size of a dimension."""
    if isinstance(dimension, int):
        return dimension
    total = sum(sign * (int(name) if name.isdigit() else sizes[name]) for sign, name in terms(dimension))
    return max(total, 0)


def described(sizes: Mapping[str, int]) -> str:
    """Return sizes for a message."""
    return ", ".join(f"{name}={size}" for name, size in sizes.items()) or "the fixed sizes of its inputs"
