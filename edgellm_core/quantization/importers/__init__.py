"""Checkpoints that other tools quantized, turned into ModelOpt's form tensor by tensor; nothing after it knows others.

========================  ==================================================================  ========================
``quant_method``          taken                                                               becomes
========================  ==================================================================  ========================
``awq``                   AutoAWQ, version ``gemm``, 4 bits                                   int4, or uint4 with zeros
``gptq``                  4 bits, any group size, with and without act-order, ``gptq`` and    int4, or uint4 with zeros
                          ``gptq_v2``
``compressed-tensors``    ``pack-quantized``: 4 bits, groups or channels, weight-only         int4, or uint4 with zeros
``compressed-tensors``    ``float-quantized``: FP8, one scale a tensor or channel, inputs     fp8
                          rounded by one static scale; KV cache in FP8
========================  ==================================================================  ========================

Everything else is refused by name.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgellm_core.quantization.importers.source import Importer

IMPORTERS: Final[Mapping[str, str]] = {
    "awq": "edgellm_core.quantization.importers.autoawq:import_autoawq",
    "gptq": "edgellm_core.quantization.importers.gptq:import_gptq",
    "compressed-tensors": "edgellm_core.quantization.importers.compressed_tensors:import_compressed_tensors",
}
"""``quant_method`` of config.json → the function that reads it."""


def find_importer(config: Mapping[str, Any]) -> Importer | None:
    """Return what reads a checkpoint with this config.json; None for unquantized ones, ModelOpt's and unknown ones."""
    quantization = config.get("quantization_config") or {}
    if not isinstance(quantization, dict):
        return None  # refused with the layout
    named = IMPORTERS.get(str(quantization.get("quant_method")))
    if named is None or "quant_algo" in quantization:
        return None
    module, _, attribute = named.partition(":")
    found: Importer = getattr(importlib.import_module(module), attribute)
    return found
