"""AutoAWQ's checkpoints, version ``gemm`` (AutoAWQ 0.2, ``modules/linear/gemm.py``, ``utils/packing_utils.py``).

For a layer ``[out, in]`` in groups of ``g`` inputs, eight outputs an integer: ``qweight`` I32 ``[in, out / 8]``,
``qzeros`` I32 ``[in / g, out / 8]``, ``scales`` F16 ``[in / g, out]``; weight = (code - zero) · scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from edgellm_core.quantization.importers.four_bits import ALGORITHM, FourBitLayer, unpack_columns
from edgellm_core.quantization.importers.source import FLOATS, ForeignCheckpoint, Imported

if TYPE_CHECKING:
    from edgellm_core.quantization.importers.source import NewTensor

ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight outputs each group of four bits holds, from the lowest on (``AWQ_ORDER``)."""


def import_autoawq(source: ForeignCheckpoint) -> Imported:
    """Return the layers of a checkpoint.

    Raises:
        UnsupportedQuantizationError: another version, or other than four bits.
        QuantizedTensorMismatchError: a tensor is missing or malformed.
    """
    settings = source.settings
    version, bits = str(settings.get("version", "gemm")).lower(), settings.get("bits", settings.get("w_bit", 4))
    if version != "gemm":
        source.refuse(f"AutoAWQ version {version!r}")
    if bits != 4:
        source.refuse(f"AutoAWQ with {bits} bits")
    modules = [name.removesuffix(".qweight") for name in source.tensors if name.endswith(".qweight")]
    return Imported(
        layers={module: _layer(source, module) for module in modules},
        algorithms=dict.fromkeys(modules, ALGORITHM),
        replaced=frozenset(f"{module}.{part}" for module in modules for part in ("qweight", "qzeros", "scales")),
        producer="autoawq",
    )


def _layer(source: ForeignCheckpoint, module: str) -> dict[str, NewTensor]:
    weight = source.require(f"{module}.qweight", ("I32",), 2)
    scales = source.require(f"{module}.scales", FLOATS, 2)
    zeros = source.require(f"{module}.qzeros", ("I32",), 2)
    inputs, outputs, groups = weight.shape[0], 8 * weight.shape[1], scales.shape[0]
    source.require_shape(scales, (groups, outputs))
    source.require_shape(zeros, (groups, outputs // 8))
    if not groups or inputs % groups:
        source.refuse(f"{groups} groups of the {inputs} inputs of {module!r}")
    return FourBitLayer(
        outputs=outputs,
        inputs=inputs,
        codes=lambda: unpack_columns(source.read(weight.name), ORDER).T,
        zeros=np.ascontiguousarray(unpack_columns(source.read(zeros.name), ORDER).T),
        scale_type=scales.element_type,
        scales=lambda: source.read(scales.name).T,
    ).tensors()
