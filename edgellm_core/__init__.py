"""edgellm: from a Hugging Face language model to a verified bundle for an edge device.

from edgellm_core import build, detect, load_bundle

bundle = build("smollm2-135m-instruct", "build/smollm2")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgellm_core.api import build as build
    from edgellm_core.api import compare as compare
    from edgellm_core.api import detect as detect
    from edgellm_core.api import quantize as quantize
    from edgellm_core.api import simplify_onnx as simplify_onnx
    from edgellm_core.bundle import load_bundle as load_bundle
    from edgellm_core.runtime import generate_text as generate_text

_EXPORTS: Final[Mapping[str, str]] = {
    "build": "edgellm_core.api",
    "compare": "edgellm_core.api",
    "detect": "edgellm_core.api",
    "quantize": "edgellm_core.api",
    "simplify_onnx": "edgellm_core.api",
    "load_bundle": "edgellm_core.bundle",
    "generate_text": "edgellm_core.runtime",
}
"""Public name → module that defines it; imported on first use, so that importing the package costs nothing."""

__all__ = ["build", "compare", "detect", "generate_text", "load_bundle", "quantize", "simplify_onnx"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _EXPORTS:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_EXPORTS[name]), name)
