"""AutoAWQ's checkpoints, version ``gemm`` (AutoAWQ 0.2, ``modules/linear/gemm.py``, ``utils/packing_utils.py``).

For a layer ``[out, in]`` in groups of ``g`` inputs, eight outputs an integer: ``qweight`` I32 ``[in, out / 8]``,
``qzeros`` I32 ``[in / g, out / 8]``, ``scales`` F16 ``[in / g, out]``; weight = (code - zero) · scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.quantization.importers.four_bits import ALGORITHM, MIDDLE, FourBitLayer, unpack_columns
from edgellm_core.quantization.importers.source import FLOATS, ForeignCheckpoint, Imported
from edgellm_core.quantization.known_settings import AWQ, require_known_settings
from edgellm_core.quantization.module_lists import by_boundary, require_unlisted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgellm_core.quantization.importers.source import NewTensor

ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight outputs each group of four bits holds, from the lowest on (``AWQ_ORDER``)."""

SYNONYMS: Final = {
    "version": ("version", "format"), "bits": ("bits", "w_bit"), "group_size": ("group_size", "q_group_size"),
}  # fmt: skip
"""Setting → its names: AutoAWQ's and transformers', and those of AutoAWQ's own quant_config.json."""

PARTS: Final = ("qweight", "qzeros", "scales")


def import_autoawq(source: ForeignCheckpoint) -> Imported:
    """Return the layers of a checkpoint.

    Raises:
        UnsupportedQuantizationError: another version, or other than four bits.
        ContradictoryQuantizationError: the settings and the tensors exclude each other.
        QuantizedTensorMismatchError: a tensor is missing or malformed.
    """
    require_known_settings(source.directory, "AutoAWQ", source.settings, AWQ)
    settings = {**source.settings, **{key: _setting(source, names) for key, names in SYNONYMS.items()}}
    version, bits = settings["version"] or "gemm", 4 if settings["bits"] is None else settings["bits"]
    if str(version).lower() != "gemm":
        source.refuse(f"AutoAWQ version {version!r}")
    if settings.get("backend") == "llm-awq":
        source.refuse("AWQ of llm-awq, which packs otherwise")
    if isinstance(bits, bool) or bits != 4:
        source.refuse(f"AutoAWQ with {bits!r} bits")
    modules = [name.removesuffix(".qweight") for name in source.tensors if name.endswith(".qweight")]
    unconverted = settings.get("modules_to_not_convert")
    require_unlisted(source.directory, "modules_to_not_convert", unconverted, modules, by_boundary)
    return Imported(
        layers={module: _layer(source, settings, module) for module in modules},
        algorithms=dict.fromkeys(modules, ALGORITHM),
        replaced=frozenset(f"{module}.{part}" for module in modules for part in PARTS),
        producer="autoawq",
    )


def _setting(source: ForeignCheckpoint, names: tuple[str, ...]) -> Any:
    """Return a setting that has several names; None where it is not set."""
    found = {name: source.settings[name] for name in names if source.settings.get(name) is not None}
    if len(set(map(str, found.values()))) > 1:
        source.contradict(" and ".join(f"{name} is {value!r}" for name, value in found.items()))
    return next(iter(found.values()), None)


def _layer(source: ForeignCheckpoint, settings: Mapping[str, Any], module: str) -> dict[str, NewTensor]:
    weight = source.require(f"{module}.qweight", ("I32",), 2)
    scales = source.require(f"{module}.scales", FLOATS, 2)
    stored = source.require(f"{module}.qzeros", ("I32",), 2)
    inputs, outputs, groups = weight.shape[0], 8 * weight.shape[1], scales.shape[0]
    source.require_shape(scales, (groups, outputs))
    source.require_shape(stored, (groups, outputs // 8))
    source.require_groups(settings, module, inputs=inputs, groups=groups)
    zeros = np.ascontiguousarray(unpack_columns(source.read(stored.name), ORDER).T)
    if not source.flag(settings, "zero_point", default=True) and (zeros != MIDDLE).any():
        source.contradict(f"zero_point is false, which makes every zero point 8, and {stored.name!r} holds others")
    return FourBitLayer(
        outputs=outputs,
        inputs=inputs,
        codes=lambda: unpack_columns(source.read(weight.name), ORDER).T,
        zeros=zeros,
        scale_type=scales.element_type,
        scales=lambda: source.read(scales.name).T,
    ).tensors()
