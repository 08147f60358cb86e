"""The one table of tolerances of the parity gate.

``max_rel_err`` of one row of one step is ``max |a - b| / max |b|`` over its real positions and the whole vocabulary:
``a`` the graph's logits, ``b`` the original's. The tolerance bounds the largest of all rows and steps.
"""

from __future__ import annotations

from typing import Final

from edgellm_core.errors import UnknownNameError

TOLERANCES: Final = {
    # Both sides compute in float32 and differ in the order of sums. Measured: up to 2e-6 on the tiny checkpoints of all
    # families, 3e-6 on SmolLM2-135M. 1e-4 leaves room for depth; the smallest mutation of the tests (one weight of 10^4
    # off by its own size) is at 1e-3.
    "fp32": 1e-4,
    # The original in float32 against float16 weights and activations (unit roundoff 4.9e-4, accumulated over the
    # layers). Measured: 1e-3 on tiny checkpoints, 7e-3 on SmolLM2-135M.
    "fp16": 2e-2,
    # The graph runs raised to float32 over bfloat16 weights (ONNX Runtime has no bfloat16 kernels), the original in
    # float32 over the same bfloat16-rounded weights. What remains is the order of sums, as in fp32, and constants that
    # the graph holds in bfloat16. Rounding of bfloat16 activations on the device is not part of this comparison.
    "bf16": 1e-4,
}
"""Precision → largest ``max_rel_err`` that passes, with what it was measured against."""

LOCAL_NOISE: Final = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 1e-5}
"""Precision → relative error (largest token, Euclidean norm) that one decoder layer may add by rounding alone.

About 20 unit roundoffs of the type that the graph computes in (IEEE 754: 2^-24 for float32, 2^-11 for float16); the
largest measured in a layer of SmolLM2-135M is 3e-6 and 3e-3. Only the search for the first diverging layer uses it.
"""


def tolerance_of(precision: str) -> float:
    """Return the tolerance of a precision.

    Raises:
        UnknownNameError: the table has none.
    """
    if precision not in TOLERANCES:
        raise UnknownNameError("precision", precision, TOLERANCES)
    return TOLERANCES[precision]
