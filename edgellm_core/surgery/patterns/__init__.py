"""Rules for graphs of other exporters: patterns of plain operators → what they mean, one pattern a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellm_core.surgery.rule import Rule


def tidying_rules() -> Sequence[Rule]:
    """Return the rules that tidy a foreign graph; they run until none of them applies."""
    from edgellm_core.surgery.patterns.flat_transpose import FlatTransposeToTranspose
    from edgellm_core.surgery.patterns.fold_more import FoldMoreConstants
    from edgellm_core.surgery.patterns.merge_transposes import MergeTransposes
    from edgellm_core.surgery.patterns.noop_casts import RemoveRoundTripCast
    from edgellm_core.surgery.patterns.noop_shapes import RemoveNoOpShape
    from edgellm_core.surgery.patterns.static_shapes import ShapeToConstant
    from edgellm_core.surgery.rules.remove_identity import RemoveIdentity
    from edgellm_core.surgery.rules.remove_noop import RemoveNoOp

    return (
        RemoveIdentity(),
        RemoveNoOp(),
        ShapeToConstant(),
        FoldMoreConstants(),
        RemoveNoOpShape(),
        RemoveRoundTripCast(),
        FlatTransposeToTranspose(),
        MergeTransposes(),
    )


def pattern_rules(opset: int) -> Sequence[Rule]:
    """Return the rules that find norms, rotations, attentions and activations.

    Args:
        opset: of the default domain in the graph; a rule for an operator that it lacks only reports near misses.
    """
    from edgellm_core.surgery.patterns.attention import PlainAttention
    from edgellm_core.surgery.patterns.gelu import PlainGelu
    from edgellm_core.surgery.patterns.layer_norm import PlainLayerNorm
    from edgellm_core.surgery.patterns.rms_norm import PlainRMSNorm
    from edgellm_core.surgery.patterns.rotary import PlainRotary
    from edgellm_core.surgery.patterns.swish import PlainSwish

    # a layer norm holds the RMS norm of what it centers, so it comes first
    return (PlainLayerNorm(), PlainRMSNorm(), PlainRotary(), PlainAttention(), PlainGelu(), PlainSwish(opset))
