"""Casts to F32, F16 and BF16 (round to nearest even, as torch does), and the search for values out of range.

Other numbers (F64, integers, booleans) go through F32, as transformers casts what it loads.

All functions work on arrays of unsigned integers that hold the bits of the numbers. With torch in the process the
casts run through torch, otherwise through numpy; torch is never imported here, because that alone takes longer than
streaming a small model.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgellm_core.settings import PAIRED_TYPES

if TYPE_CHECKING:
    import types

Bits = NDArray[np.unsignedinteger[Any]]
Cast = Callable[[Bits, Bits], None]
"""Writes the cast of all elements of the first array into the second."""

BITS: Final[dict[str, type[np.unsignedinteger[Any]]]] = {"F32": np.uint32, "F16": np.uint16, "BF16": np.uint16}
"""Element type → unsigned integer of its width."""

NUMBERS: Final[dict[str, np.dtype[Any]]] = {
    "F64": np.dtype("<f8"), "BOOL": np.dtype("u1"),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"),
}  # fmt: skip
"""Element types that are turned into F32 first. F8 is missing: such weights mean nothing without their scales."""

EXPONENT: Final = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}
"""Element type → its exponent bits; all of them set means NaN or infinite (IEEE 754; bfloat16 is F32's upper half)."""

TORCH_NAMES: Final = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}

TABLE_BLOCK: Final = 1 << 16
"""Elements that are looked up at a time: 2.1 GB/s, against 1.9 for 4 MiB at once (one core, numpy 2.4)."""


def can_cast(source: str, target: str) -> bool:
    """Return whether elements of one type can be turned into the other."""
    if source == target:
        return True
    return (target in BITS and (source in BITS or source in NUMBERS)) or (source == "U8" and target in PAIRED_TYPES)


def to_float32(raw: NDArray[np.uint8], element_type: str) -> Bits:
    """Return the numbers of bytes, of a type of ``NUMBERS``, as bits of F32; what F32 can't hold becomes infinite."""
    numbers = raw.view(NUMBERS[element_type])
    if element_type == "BOOL":
        numbers = numbers != 0
    with np.errstate(over="ignore"):
        return numbers.astype(np.float32).view(np.uint32)


def converted(raw: NDArray[np.uint8], source: str, target: str) -> Bits:
    """Return the numbers of bytes as bits of another type of ``BITS``."""
    values, source = (to_float32(raw, source), "F32") if source in NUMBERS else (raw.view(BITS[source]), source)
    if source == target:
        return values
    made: Bits = np.empty(values.shape, BITS[target])
    find_cast(source, target)(values, made)
    return made


def find_cast(source: str, target: str) -> Cast:
    """Return the fastest cast between two different types of ``BITS`` that this process can run."""
    return torch_cast(source, target) if "torch" in sys.modules else numpy_cast(source, target)


def multiplied(values: Bits, element_type: str, factor: float) -> Bits:
    """Return the products with a number, computed in float32 and rounded to the type of the values."""
    wide: Bits = values.copy()
    if element_type != "F32":
        wide = np.empty(values.shape, np.uint32)
        find_cast(element_type, "F32")(values, wide)
    with np.errstate(over="ignore"):  # the caller looks for infinities
        wide.view(np.float32)[:] *= np.float32(factor)
    if element_type == "F32":
        return wide
    products: Bits = np.empty_like(values)
    find_cast("F32", element_type)(wide, products)
    return products


def torch_cast(source: str, target: str) -> Cast:
    """Return a cast that runs in torch, which must be imported."""
    torch: types.ModuleType = sys.modules["torch"]
    source_type, target_type = getattr(torch, TORCH_NAMES[source]), getattr(torch, TORCH_NAMES[target])

    def cast(values: Bits, out: Bits) -> None:
        # torch has no uint16 and uint32 arithmetic, but views bytes as any type.
        given = torch.from_numpy(values.view(np.uint8)).view(source_type)
        torch.from_numpy(out.view(np.uint8)).view(target_type).copy_(given)

    return cast


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """Keep torch on one thread in the body: its pool fights the reading and hashing threads for the cores.

    Two threads took up to 14.7 s where one took 1.6 s (1.2 B parameters, 2 cores, torch 2.13).
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def numpy_cast(source: str, target: str) -> Cast:
    """Return a cast that runs in numpy."""
    if source == "F32":
        return _float32_to_float16 if target == "F16" else _float32_to_bfloat16
    if (source, target) == ("BF16", "F32"):
        return _bfloat16_to_float32
    table = _table(source, target)

    def look_up(values: Bits, out: Bits) -> None:
        # numpy widens the indices to 64 bits first: blocks keep that copy in the cache. "clip" skips the bounds check
        # of "raise"; a 16-bit index can't leave the table.
        for start in range(0, values.size, TABLE_BLOCK):
            block = slice(start, start + TABLE_BLOCK)
            np.take(table, values[block], out=out[block], mode="clip")

    return look_up


@functools.cache
def _table(source: str, target: str) -> Bits:
    """Return the cast of each of the 65536 patterns of a 16-bit type."""
    patterns = np.arange(1 << 16, dtype=np.uint16)
    with np.errstate(all="ignore"):
        if source == "F16":
            values = patterns.view(np.float16).astype(np.float32)
        else:
            values = (patterns.astype(np.uint32) << 16).view(np.float32)
        table = np.empty(patterns.shape, BITS[target])
        if target == "F32":
            table[:] = values.view(np.uint32)
        else:
            numpy_cast("F32", target)(values.view(np.uint32), table)
    return table


def _float32_to_float16(values: Bits, out: Bits) -> None:
    with np.errstate(over="ignore", under="ignore"):  # the caller looks for infinities
        np.copyto(out.view(np.float16), values.view(np.float32), casting="same_kind")


def _float32_to_bfloat16(values: Bits, out: Bits) -> None:
    """Round to nearest, ties to even: add half of the last place kept, less one if that place is even."""
    rounded = values >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += values
    out[:] = rounded.view(np.uint16)[_UPPER_HALF::2]


def _bfloat16_to_float32(values: Bits, out: Bits) -> None:
    halves = out.view(np.uint16)
    halves[1 - _UPPER_HALF :: 2] = 0
    halves[_UPPER_HALF::2] = values


_UPPER_HALF: Final = 1 if sys.byteorder == "little" else 0


def has_non_finite(values: Bits, element_type: str) -> bool:
    """Return whether any element is NaN or infinite.

    Two integer maxima are 20 times as fast as ``numpy.isfinite`` on float16: as signed numbers, positive values of
    that kind are the largest; as unsigned numbers, negative ones are.
    """
    if not values.size:
        return False
    limit = EXPONENT[element_type]
    sign = 1 << (values.itemsize * 8 - 1)
    signed = values.view(np.int16 if values.itemsize == 2 else np.int32)
    return bool(signed.max() >= limit or values.max() >= (sign | limit))


def first_non_finite(values: Bits, element_type: str) -> int | None:
    """Return the index of the first element that is NaN or infinite."""
    if not has_non_finite(values, element_type):
        return None
    limit = EXPONENT[element_type]
    return int(np.argmax((values & limit) == limit))


def first_e4m3_nan(values: NDArray[np.uint8]) -> int | None:
    """Return the index of the first NaN among FLOAT8E4M3FN numbers, which know no infinity (OCP OFP8 1.0)."""
    found = (values & 0x7F) == 0x7F
    return int(np.argmax(found)) if found.any() else None


def first_not_positive(values: Bits) -> int | None:
    """Return the index of the first element that is zero or negative."""
    found = (values == 0) | (values >= 1 << (values.itemsize * 8 - 1))
    return int(np.argmax(found)) if found.any() else None


def join_pairs(numbers: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Put each two neighbouring four-bit numbers into one byte, the first into its low half."""
    np.left_shift(numbers[1::2], 4, out=out)
    np.bitwise_or(out, numbers[::2], out=out)


def as_float(bits: int, element_type: str) -> float:
    """Return the number that a bit pattern stands for."""
    pattern = np.array([bits], dtype=BITS[element_type])
    if element_type == "BF16":
        pattern = pattern.astype(np.uint32) << 16
    return float(pattern.view(np.float16 if element_type == "F16" else np.float32)[0])
