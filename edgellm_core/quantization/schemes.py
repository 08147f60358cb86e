"""The core's quantization schemes: what ``--precision`` may name besides an element type."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Final

from edgellm_core.contract import QuantizationScheme, Rounding, Smoothing
from edgellm_core.errors import UnknownNameError
from edgellm_core.quantization.formats import FP8, INT4, INT8_SQ, MXFP8, NVFP4, LinearFormat

if TYPE_CHECKING:
    from collections.abc import Mapping


class Fp8(QuantizationScheme):
    """Weights and inputs in FLOAT8E4M3FN, one scale for each tensor."""

    name: ClassVar[str] = "fp8"
    compute_capability: ClassVar[int] = 89

    def linear_format(self, block_size: int) -> LinearFormat:
        """Return FP8; there are no blocks."""
        del block_size
        return FP8


class Int8SmoothQuant(QuantizationScheme):
    """Weights in int8 with one scale for each output, inputs in int8 with one scale; SmoothQuant (Xiao et al. 2022)."""

    name: ClassVar[str] = "int8_sq"
    smoothing: ClassVar[Smoothing] = "smoothquant"
    rounding: ClassVar[Rounding] = "compensated"
    compute_capability: ClassVar[int] = 75

    def linear_format(self, block_size: int) -> LinearFormat:
        """Return INT8_SQ; there are no blocks."""
        del block_size
        return INT8_SQ


class Int4Awq(QuantizationScheme):
    """Weights in int4 with one scale for each block of inputs, inputs in floats; AWQ (Lin et al. 2023)."""

    name: ClassVar[str] = "int4_awq"
    smoothing: ClassVar[Smoothing] = "awq"
    rounding: ClassVar[Rounding] = "compensated"
    block_sizes: ClassVar[tuple[int, ...]] = (128, 64, 32)
    compute_capability: ClassVar[int] = 80

    def linear_format(self, block_size: int) -> LinearFormat:
        """Return INT4 with blocks of that size."""
        return replace(INT4, block_size=block_size)


class Nvfp4(QuantizationScheme):
    """Weights and inputs in FLOAT4E2M1, an E4M3 scale for each block of 16 inputs under one scale for the tensor."""

    name: ClassVar[str] = "nvfp4"
    rounding: ClassVar[Rounding] = "compensated"
    block_sizes: ClassVar[tuple[int, ...]] = (16,)
    compute_capability: ClassVar[int] = 100

    def linear_format(self, block_size: int) -> LinearFormat:
        """Return NVFP4 with blocks of that size."""
        return replace(NVFP4, block_size=block_size)


class Mxfp8(QuantizationScheme):
    """Weights and inputs in FLOAT8E4M3FN, a power of 2 for each block of 32 inputs (OCP MX 1.0)."""

    name: ClassVar[str] = "mxfp8"
    block_sizes: ClassVar[tuple[int, ...]] = (32,)
    compute_capability: ClassVar[int] = 100

    def linear_format(self, block_size: int) -> LinearFormat:
        """Return MXFP8 with blocks of that size."""
        return replace(MXFP8, block_size=block_size)


BUILT_IN: Final[Mapping[str, type[QuantizationScheme]]] = {
    scheme.name: scheme for scheme in (Fp8, Int8SmoothQuant, Int4Awq, Nvfp4, Mxfp8)
}
"""Schemes of the core, by name."""


def find_scheme(name: str, brought: Mapping[str, type[QuantizationScheme]]) -> QuantizationScheme:
    """Return a scheme by name.

    Args:
        name: what the user asked for.
        brought: schemes that plugins bring; they win over the core's.

    Raises:
        UnknownNameError: there is none of that name.
    """
    known = {**BUILT_IN, **brought}
    if name not in known:
        raise UnknownNameError("quantization scheme", name, known)
    return known[name]()
