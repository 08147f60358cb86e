"""The one table of tolerances of the parity gate.

``max_rel_err`` of one row of one step is ``max |a - b| / max |b|`` over its real positions and the whole vocabulary:
``a`` the graph's logits, ``b`` the original's. The tolerance bounds the largest of all rows and steps.
"""

from __future__ import annotations

from typing import Final

from edgellm_core.errors import UnknownNameError

QUANTIZED: Final = "quantized"
"""Row of the table for every quantized checkpoint."""

CHOOSING: Final = "fp16, experts chosen"
"""Row of the table for float16 graphs in which a token's experts are chosen."""

TOLERANCES: Final = {
    # Both sides compute in float32 and differ in the order of sums. Measured: up to 2e-6 on the tiny checkpoints of the
    # families, 4e-6 on SmolLM2-135M. 1e-4 leaves room for depth.
    "fp32": 1e-4,
    # The original in float32 against float16 weights and activations (unit roundoff 4.9e-4, carried through the
    # layers). Measured: up to 4e-3 on the tiny checkpoints, 2e-3 on SmolLM2-135M. 2e-2 leaves room for depth.
    # ONNX Runtime's CPU kernels keep float32 between some operators, so a device rounds more often than this shows.
    "fp16": 2e-2,
    # The graph runs raised to float32 over float16 weights, the original in float32 over the same rounded weights.
    # Where two experts are nearly tied, float16 activations choose the other one: of 480 positions of a tiny
    # checkpoint with 128 experts transformers itself, in float16, differs by more than 2e-2 at 5, by up to 9e-2.
    # Measured: up to 2e-6 on the tiny checkpoints, and 3e-5 for gpt_oss. Numbers of the config are float16 constants.
    CHOOSING: 1e-3,
    # The graph runs raised to float32 over bfloat16 weights (ONNX Runtime has no bfloat16 kernels), the original in
    # float32 over the same bfloat16-rounded weights. What remains is the order of sums, as in fp32 (same measurements).
    # How a device rounds bfloat16 activations is not part of this comparison.
    "bf16": 1e-4,
    # Every quantized checkpoint, whatever its scheme. Both sides compute in float32 over the same dequantized weights,
    # and go on from the same rounded numbers, so what remains is the order of sums. Measured: 7e-7 on tiny checkpoints
    # of fp8, int8_sq, int4_awq, nvfp4 and mxfp8, 2e-6 on SmolLM2-135M. Without common rounded numbers SmolLM2-135M
    # differs by 0.15 in fp8 and 0.11 in mxfp8; in float16 tiny checkpoints differ by 0.05 (fp8) and 0.15 (nvfp4).
    QUANTIZED: 1e-4,
}
"""Precision → largest ``max_rel_err`` that passes, with what it was measured against."""

LOCAL_NOISE: Final = {"fp32": 1e-5, "fp16": 1e-2, CHOOSING: 1e-4, "bf16": 1e-5, QUANTIZED: 1e-5}
"""Precision → error (largest token, relative Euclidean norm) that one decoder layer may add by rounding alone.

Measured on SmolLM2-135M: median 4e-7 in float32 and 5e-4 in float16, largest 5e-6 and 4e-3 (in the layer that creates
its massive activations). It only decides how a failure is explained.
"""


def tolerance_of(precision: str) -> float:
    """Return the tolerance of a precision.

    Raises:
        UnknownNameError: the table has none.
    """
    if precision not in TOLERANCES:
        raise UnknownNameError("precision", precision, TOLERANCES)
    return TOLERANCES[precision]
