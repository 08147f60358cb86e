"""What is compared with what: a graph and its original."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from edgellm_core.targets.onnx import OnnxTarget
from edgellm_core.verification.segments import can_be_cut
from edgellm_core.verification.tolerances import QUANTIZED

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    from transformers import PreTrainedConfig

    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.checkpoint.tensors import TensorIndex
    from edgellm_core.contract import ModelFamily, Target
    from edgellm_core.quantization.layout import QuantizationLayout

PRECISIONS: Final = {1: "fp32", 10: "fp16", 16: "bf16"}
"""``onnx.TensorProto.DataType`` → precision."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A graph and its original.

    Attributes:
        graph: the graph without its external data.
        folder: where the external data lies.
        directory: the original checkpoint.
        config: transformers config of the original.
        precision: precision of the graph.
        tensors: tensors of the original.
        layout: what of the original is quantized; None for nothing.
        target: what the graph was lowered for.
    """

    graph: onnx.ModelProto
    folder: Path
    target: Target = field(default_factory=OnnxTarget)
    directory: Path
    config: PreTrainedConfig
    precision: str
    tensors: TensorIndex = field(default_factory=dict)
    layout: QuantizationLayout | None = None

    @property
    def depth(self) -> int:
        """Number of decoder layers."""
        return int(self.config.get_text_config().num_hidden_layers)

    @property
    def element_type(self) -> str:
        """Precision of what is not quantized: that of the embeddings where they are passed in, or of the logits."""
        values = (*self.graph.graph.input, *self.graph.graph.output)
        value = next(one for one in values if one.name in ("inputs_embeds", "logits"))
        return PRECISIONS[value.type.tensor_type.elem_type]

    @property
    def tolerance_row(self) -> str:
        """Row of the table of tolerances."""
        return self.precision if self.layout is None else QUANTIZED

    @property
    def rounding_points(self) -> dict[str, str]:
        """Tensor of the graph for each place where numbers are rounded; see :func:`rounding_points`."""
        from edgellm_core.verification.rounding_points import rounding_points

        return rounding_points(self.graph, self.layout, self.tensors) if self.layout else {}

    @property
    def names_hidden_states(self) -> bool:
        """Whether the graph names the hidden states between its layers."""
        return can_be_cut(self.graph.graph, self.depth)

    @property
    def looks_up_products(self) -> bool:
        """Whether embeddings come from a table beside the graph, which holds a factor too and is rounded with it."""
        from edgellm_core.verification.rounding_points import embeds_are_made

        named = any(value.name == "inputs_embeds" for value in self.graph.graph.input)
        return named and not embeds_are_made(self.graph)

    @property
    def one_token(self) -> bool:
        """Whether the graph takes one token a step."""
        ids = [value for value in self.graph.graph.input if value.name == "input_ids"]
        return any(value.type.tensor_type.shape.dim[1].dim_value == 1 for value in ids)

    @property
    def reference(self) -> str:
        """What the graph is compared with, in words, for the manifest."""
        import transformers

        from edgellm_core.tracing.weightless import causal_lm_class

        parts = [f"transformers {transformers.__version__} {causal_lm_class(self.config).__name__} in float32"]
        if self.layout is not None:
            parts.append(self._quantized_reference(self.layout))
        elif self.precision != "fp32":
            narrow = "bfloat16" if self.precision == "bf16" else "float16"
            parts.append(f"weights rounded to {narrow}; the graph ran with its types raised to float32")
        return ", ".join(parts)

    def _quantized_reference(self, layout: QuantizationLayout) -> str:
        forms = layout.linears.values()
        parts = [f"dequantized weights of {len(layout.linears)} linear layers"]
        if layout.kv_cache or any(form.input == "static" for form in forms):
            parts.append(f"rounding by modelopt {importlib.metadata.version('nvidia-modelopt')}")
        dynamic = sorted({form.weight for form in forms if form.input == "dynamic"})
        parts += [f"inputs rounded to {kind} in float64" for kind in dynamic]
        if layout.kv_cache:
            parts.append(f"keys and values rounded to {layout.kv_cache}")
        if self.rounding_points:
            parts.append("ties fall as in the graph")
        if self.element_type != "fp32":
            parts.append(f"other weights and scales in {self.element_type}; the graph ran with types raised to float32")
        if dynamic or any(form.weight == "nvfp4" for form in forms):
            parts.append("operators that ONNX Runtime lacks ran as plain ones over the same stored weights")
        return "; ".join(parts)


def make_subject(
    model_path: Path, checkpoint: Checkpoint, family: ModelFamily, *, precision: str, target: Target | None = None
) -> Subject:
    """Return what is to be compared.

    Args:
        model_path: the bound graph; its data lies beside it.
        checkpoint: the original.
        family: its family, which may adapt the config.
        precision: precision of the graph.
        target: what the graph was lowered for; None for ``onnx``.

    Raises:
        UserError: transformers can't read the config.
    """
    import onnx

    from edgellm_core.quantization.layout import read_layout
    from edgellm_core.tracing.configuration import load_config

    return Subject(
        graph=onnx.load(str(model_path), load_external_data=False),
        folder=model_path.parent,
        target=target or OnnxTarget(),
        directory=checkpoint.directory,
        config=load_config(
            checkpoint.directory, checkpoint.config, family, trust_remote_code=checkpoint.trust_remote_code
        ),
        precision=precision,
        tensors=checkpoint.tensors,
        layout=read_layout(checkpoint.directory, checkpoint.config, checkpoint.tensors),
    )
