"""The table from ATen operators to ONNX operators (opset 23), put together from its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgellm_core.tracing import aten_elementwise, aten_reductions, aten_shapes
from edgellm_core.tracing.converter import semantic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgellm_core.tracing.converter import Conversion

TABLE: Final[Mapping[str, Conversion]] = {
    "onnx_symbolic._symbolic.default": semantic,
    **aten_elementwise.TABLE,
    **aten_reductions.TABLE,
    **aten_shapes.TABLE,
}
"""Conversions by the name that torch prints for an operator."""
