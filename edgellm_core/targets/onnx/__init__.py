"""Target ``onnx``: standard operators, for ONNX Runtime and TensorRT."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from edgellm_core.contract import ImportedForm, QuantizedForm, Target

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_graphsurgeon as gs

    from edgellm_core.quantization.model import QuantizedModel
    from edgellm_core.surgery.rule import Rule


class OnnxTarget(Target):
    """Standard operators of opset 23; KV cache as graph inputs and outputs per layer.

    Only layers whose input is rounded by blocks (nvfp4, mxfp8) use operators of TensorRT's own domain.
    """

    name: ClassVar[str] = "onnx"
    opset: ClassVar[int] = 23
    domains: ClassVar[tuple[str, ...]] = ("", "trt")
    takes_imported: ClassVar[bool] = True
    score_types: ClassVar[tuple[str, ...]] = ("fp32",)

    def rules(self) -> Sequence[Rule]:
        """Return the lowering rules."""
        from edgellm_core.targets.onnx import lower_attention, lower_experts, lower_linear, lower_norms, lower_rotary

        return (
            lower_norms.RMSNormToRMSNormalization(),
            lower_norms.LayerNormToLayerNormalization(),
            lower_rotary.RotaryToRotaryEmbedding(),
            lower_linear.LinearToMatMul(),
            lower_experts.ExpertsToMatMul(),
            lower_attention.AppendToConcat(),
            lower_attention.AttentionMaskToLogic(),
            lower_attention.AttentionToAttention(self.attention_scores),
        )

    def imported(self, graph: gs.Graph) -> ImportedForm:
        """Return the lowering rules of what pattern rules find."""
        from edgellm_core.targets.onnx import lower_attention, lower_norms, lower_rotary

        del graph
        rules = (
            lower_norms.RMSNormToRMSNormalization(),
            lower_norms.LayerNormToLayerNormalization(),
            lower_rotary.RotaryToRotaryEmbedding(),
            lower_attention.AttentionToAttention(),
        )
        return ImportedForm(rules=rules)

    def quantized(self, model: QuantizedModel) -> QuantizedForm:
        """Return the Q/DQ form of every format that there is.

        Raises:
            NoFormError: quantized experts.
        """
        from edgellm_core.errors import NoFormError
        from edgellm_core.targets.onnx.quantized_cache import QuantizedAppend, cache_recipe
        from edgellm_core.targets.onnx.quantized_linear import QuantizedLinearToMatMul
        from edgellm_core.targets.onnx.quantized_recipes import linear_recipes

        if model.experts:
            raise NoFormError(self.name, {"quantized experts"})
        of_linears = [
            recipe
            for linear in model.linears.values()
            for recipe in linear_recipes(linear, model.element_type).values()
        ]
        of_caches = [cache_recipe(scale, model.element_type) for scale in model.caches.values()]
        return QuantizedForm(
            rules=(
                *([QuantizedLinearToMatMul(model)] if model.linears else []),
                *([QuantizedAppend(model)] if model.caches else []),
            ),
            recipes=(*of_linears, *of_caches),
        )
