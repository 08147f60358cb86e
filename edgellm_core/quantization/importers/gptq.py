"""GPTQ checkpoints of AutoGPTQ and GPTQModel (GPTQModel 2, ``gptqmodel/nn_modules/qlinear/__init__.py``).

For a layer ``[out, in]`` in ``n`` groups of inputs, eight numbers an integer: ``qweight`` I32 ``[in / 8, out]``,
``qzeros`` I32 ``[n, out / 8]``, ``scales`` F16 ``[n, out]``, ``g_idx`` I32 ``[in]`` with the group of each input;
weight = (code - zero) · scale. The first format (``gptq``) stores each zero less one, ``gptq_v2`` as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgellm_core.quantization.importers.four_bits import (
    ALGORITHM,
    LARGEST,
    FourBitLayer,
    input_order,
    unpack_columns,
    unpack_rows,
)
from edgellm_core.quantization.importers.source import FLOATS, ForeignCheckpoint, Imported

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgellm_core.quantization.importers.source import NewTensor

ZERO_OFFSETS = {"gptq": 1, "gptq_v2": 0}
"""``checkpoint_format`` → what has to be added to a stored zero point."""


def import_gptq(source: ForeignCheckpoint) -> Imported:
    """Return the layers of a checkpoint.

    Raises:
        UnsupportedQuantizationError: another format, or other than four bits.
        QuantizedTensorMismatchError: a tensor is missing or malformed.
    """
    settings = source.settings
    layout, bits = settings.get("checkpoint_format") or "gptq", settings.get("bits", 4)
    if layout not in ZERO_OFFSETS:
        source.refuse(f"GPTQ with checkpoint_format {layout!r}")
    if bits != 4 or settings.get("dynamic"):
        source.refuse("GPTQ with settings of single layers (dynamic)" if bits == 4 else f"GPTQ with {bits} bits")
    modules = [name.removesuffix(".qweight") for name in source.tensors if name.endswith(".qweight")]
    parts = ("qweight", "qzeros", "scales", "g_idx")
    return Imported(
        layers={module: _layer(source, module, ZERO_OFFSETS[layout]) for module in modules},
        algorithms=dict.fromkeys(modules, ALGORITHM),
        replaced=frozenset(f"{module}.{part}" for module in modules for part in parts),
        producer="gptq",
    )


def _layer(source: ForeignCheckpoint, module: str, offset: int) -> dict[str, NewTensor]:
    weight = source.require(f"{module}.qweight", ("I32",), 2)
    scales = source.require(f"{module}.scales", FLOATS, 2)
    inputs, outputs, groups = 8 * weight.shape[0], weight.shape[1], scales.shape[0]
    source.require_shape(scales, (groups, outputs))
    return FourBitLayer(
        outputs=outputs,
        inputs=inputs,
        codes=lambda: unpack_rows(source.read(weight.name)).T,
        zeros=_zeros(source, module, (groups, outputs), offset),
        scale_type=scales.element_type,
        scales=lambda: source.read(scales.name).T,
        order=input_order(source, f"{module}.g_idx", module=module, inputs=inputs, groups=groups),
    ).tensors()


def _zeros(source: ForeignCheckpoint, module: str, shape: tuple[int, int], offset: int) -> NDArray[np.uint8]:
    """Return the zero point of each group ``[out, n]``."""
    stored = source.require(f"{module}.qzeros", ("I32",), 2)
    source.require_shape(stored, (shape[0], shape[1] // 8))
    zeros = unpack_columns(source.read(stored.name)) + np.uint8(offset)
    if zeros.max(initial=0) > LARGEST:
        source.refuse(f"the zero point {zeros.max()} of {module!r}, which four bits don't hold")
    return np.ascontiguousarray(zeros.T)
