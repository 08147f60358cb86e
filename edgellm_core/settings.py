"""Names that several stages share: precisions, their element types, and where caches live."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

ELEMENT_TYPES: Final = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
"""Precision of a build → element type of its weights, in safetensors' spelling."""

ELEMENT_BYTES: Final = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes per element of safetensors' element types (safetensors format, ``Dtype``)."""

PAIRED_TYPES: Final = ("I4", "U4", "F4_E2M1")
"""Element types of the graph of which a byte holds two, the low four bits first (ONNX, ``TensorProto.raw_data``):
INT4, UINT4 and FLOAT4E2M1. Checkpoints store them as U8."""

LARGEST_FP16: Final = 65504.0
"""Largest finite float16 (IEEE 754 binary16)."""


def stored_bytes(element_type: str, count: int) -> int:
    """Return the bytes that ``count`` elements take."""
    return (count + 1) // 2 if element_type in PAIRED_TYPES else count * ELEMENT_BYTES[element_type]


def cache_directory() -> Path:
    """Return the directory for traces and converted checkpoints: ``EDGELLM_CACHE`` or the user's cache directory."""
    configured = os.environ.get("EDGELLM_CACHE")
    if configured:
        return Path(configured)
    from platformdirs import user_cache_path

    return user_cache_path("edgellm", appauthor=False)
