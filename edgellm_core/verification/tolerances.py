"""The one table of tolerances of the parity gate.

``max_rel_err`` of one row of one step is ``max |a - b| / max |b|`` over its real positions and the whole vocabulary:
``a`` the graph's logits, ``b`` the original's. The tolerance bounds the largest of all rows and steps.
"""

from __future__ import annotations

from typing import Final

from edgellm_core.errors import UnknownNameError

QUANTIZED: Final = "quantized"
"""Row of the table for every quantized checkpoint."""

TOLERANCES: Final = {
    # Both sides compute in float32 and differ in the order of sums. Measured: up to 2e-6 on the tiny checkpoints of the
    # families, 4e-6 on SmolLM2-135M. 1e-4 leaves room for depth.
    "fp32": 1e-4,
    # The graph runs raised to float32 over float16 or bfloat16 weights, the original in float32 over the same rounded
    # weights. What remains is the order of sums, as in fp32 (same measurements). So it is the graph that is judged, not
    # a kernel: a real Qwen2 of 0.5 B is within 0.005 of float32 in float16 on a GPU and 0.021 on ONNX Runtime's CPU
    # kernels, which round scores of several hundred; a RoPE table that is off by 2⁻¹¹ would have passed there. What the
    # arithmetic of a narrow type costs is measured and recorded beside it.
    "fp16": 1e-4,
    "bf16": 1e-4,
    # Every quantized checkpoint, whatever its scheme. Both sides compute in float32 over the same dequantized weights,
    # and go on from the same rounded numbers, so what remains is the order of sums. Measured: 7e-7 on tiny checkpoints
    # of fp8, int8_sq, int4_awq, nvfp4 and mxfp8, 2e-6 on SmolLM2-135M. Without common rounded numbers SmolLM2-135M
    # differs by 0.15 in fp8 and 0.11 in mxfp8; in float16 tiny checkpoints differ by 0.05 (fp8) and 0.15 (nvfp4).
    QUANTIZED: 1e-4,
}
"""Precision → largest ``max_rel_err`` that passes, with what it was measured against."""

LOCAL_NOISE: Final = {"fp32": 1e-5, "fp16": 1e-5, "bf16": 1e-5, QUANTIZED: 1e-5}
"""Precision → error (largest token, relative Euclidean norm) that one decoder layer may add by rounding alone.

Measured on SmolLM2-135M in float32: median 4e-7, largest 5e-6 (in the layer that creates its massive activations). It
only decides how a failure is explained.
"""


def tolerance_of(precision: str) -> float:
    """Return the tolerance of a precision.

    Raises:
        UnknownNameError: the table has none.
    """
    if precision not in TOLERANCES:
        raise UnknownNameError("precision", precision, TOLERANCES)
    return TOLERANCES[precision]
