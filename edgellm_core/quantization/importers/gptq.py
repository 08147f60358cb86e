"""GPTQ checkpoints of AutoGPTQ and GPTQModel (GPTQModel 2, ``gptqmodel/nn_modules/qlinear/__init__.py``).

For a layer ``[out, in]`` in ``n`` groups of inputs, eight numbers an integer: ``qweight`` I32 ``[in / 8, out]``,
``qzeros`` I32 ``[n, out / 8]``, ``scales`` F16 ``[n, out]``, ``g_idx`` I32 ``[in]`` with the group of each input;
weight = (code - zero) · scale. The first format (``gptq``) stores each zero less one, ``gptq_v2`` as it is; checkpoints
with the wrong label are common, so ``gptq_zeros`` holds the label against the numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgellm_core.quantization.importers.four_bits import (
    ALGORITHM,
    FourBitLayer,
    input_order,
    unpack_rows,
)
from edgellm_core.quantization.importers.gptq_settings import (
    require_known,
    require_lists_that_fit,
    settings_of,
    zero_label,
)
from edgellm_core.quantization.importers.gptq_zeros import ZeroPoints
from edgellm_core.quantization.importers.source import FLOATS, ForeignCheckpoint, Imported

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgellm_core.quantization.importers.source import NewTensor

PARTS: Final = ("qweight", "qzeros", "scales", "g_idx")


def import_gptq(source: ForeignCheckpoint) -> Imported:
    """Return the layers of a checkpoint.

    Raises:
        UnsupportedQuantizationError: another format, or other than four bits.
        ContradictoryQuantizationError: the settings and the tensors exclude each other.
        QuantizedTensorMismatchError: a tensor is missing or malformed.
    """
    require_known(source)
    modules = [name.removesuffix(".qweight") for name in source.tensors if name.endswith(".qweight")]
    require_lists_that_fit(source, modules)
    settings = {module: settings_of(source, module) for module in modules}
    zeros = ZeroPoints(source, zero_label(source), settings)
    return Imported(
        layers={module: _layer(source, module, settings[module], zeros) for module in modules},
        algorithms=dict.fromkeys(modules, ALGORITHM),
        replaced=frozenset(f"{module}.{part}" for module in modules for part in PARTS),
        producer="gptq",
        notes=zeros.notes(),
    )


def _layer(
    source: ForeignCheckpoint, module: str, settings: Mapping[str, Any], zeros: ZeroPoints
) -> dict[str, NewTensor]:
    weight = source.require(f"{module}.qweight", ("I32",), 2)
    scales = source.require(f"{module}.scales", FLOATS, 2)
    inputs, outputs, groups = 8 * weight.shape[0], weight.shape[1], scales.shape[0]
    source.require_shape(scales, (groups, outputs))
    source.require_groups(settings, module, inputs=inputs, groups=groups)
    order = f"{module}.g_idx"
    if source.flag(settings, "desc_act", default=False) and groups > 1 and order not in source.tensors:
        source.contradict(f"desc_act is true, and {order!r}, which says the group of each input, is missing")
    return FourBitLayer(
        outputs=outputs,
        inputs=inputs,
        codes=lambda: unpack_rows(source.read(weight.name)).T,
        zeros=zeros.of(module, (groups, outputs)),
        scale_type=scales.element_type,
        scales=lambda: source.read(scales.name).T,
        order=input_order(source, order, module=module, inputs=inputs, groups=groups),
    ).tensors()
