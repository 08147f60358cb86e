"""Target ``onnx``: standard operators only, for ONNX Runtime and TensorRT."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from edgellm_core.contract import Target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellm_core.surgery.rule import Rule


class OnnxTarget(Target):
    """Standard operators of opset 23; KV cache as graph inputs and outputs per layer."""

    name: ClassVar[str] = "onnx"
    opset: ClassVar[int] = 23

    def rules(self) -> Sequence[Rule]:
        """Return the lowering rules."""
        from edgellm_core.targets.onnx import lower_attention, lower_linear, lower_norms, lower_rotary

        return (
            lower_norms.RMSNormToRMSNormalization(),
            lower_norms.LayerNormToLayerNormalization(),
            lower_rotary.RotaryToRotaryEmbedding(),
            lower_linear.LinearToMatMul(),
            lower_attention.AppendToConcat(),
            lower_attention.AttentionMaskToLogic(),
            lower_attention.AttentionToAttention(),
        )
