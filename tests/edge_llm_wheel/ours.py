"""Our export of a checkpoint for TensorRT-Edge-LLM."""

from __future__ import annotations

from typing import TYPE_CHECKING

import edgellm_core

if TYPE_CHECKING:
    from pathlib import Path


def export_ours(checkpoint: Path, out: Path) -> Path:
    """Build a bundle; return its folder with ``model.onnx``.

    Args:
        checkpoint: folder to export.
        out: folder to publish.

    Raises:
        EdgellmError: it can't be built.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    edgellm_core.build(checkpoint, out, target="edge-llm", precision="fp16", engine="none", verify="off")
    return next(out.rglob("model.onnx")).parent
