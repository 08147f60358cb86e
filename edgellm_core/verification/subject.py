"""What is compared with what: a graph and its original, both whole or both cut to their first layers."""

from __future__ import annotations

import copy
import importlib.metadata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from edgellm_core.targets import load_class
from edgellm_core.targets.onnx import OnnxTarget
from edgellm_core.verification.tolerances import QUANTIZED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnx
    from transformers import PreTrainedConfig

    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.checkpoint.tensors import TensorIndex
    from edgellm_core.contract import ModelFamily, Target
    from edgellm_core.quantization.layout import QuantizationLayout
    from edgellm_core.verification.session import GraphSession

Mode = Literal["full", "layers", "off"]

PRECISIONS: Final = {1: "fp32", 10: "fp16", 16: "bf16"}
"""``onnx.TensorProto.DataType`` → precision."""

LEAST_LAYERS: Final = 2
"""Fewest layers of ``--verify layers``: one whose input is the embedding and one whose input is another layer."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A graph and its original.

    Attributes:
        graph: the graph without its external data.
        folder: where the external data lies.
        directory: the original checkpoint.
        config: transformers config of the original, cut like the graph.
        whole_config: that config, not cut.
        precision: precision of the graph.
        layers: decoder layers that are compared.
        depth: decoder layers of the whole model.
        tensors: tensors of the original.
        layout: what of the original is quantized; None for nothing.
        target: what the graph was lowered for.
    """

    graph: onnx.ModelProto
    folder: Path
    target: Target = field(default_factory=OnnxTarget)
    directory: Path
    config: PreTrainedConfig
    whole_config: PreTrainedConfig
    precision: str
    layers: int
    depth: int
    tensors: TensorIndex = field(default_factory=dict)
    layout: QuantizationLayout | None = None

    def open_session(self, *, extra: Sequence[str] = ()) -> GraphSession:
        """Load the graph, its types raised to float32, into what executes graphs of its target.

        Args:
            extra: names of further tensors to show.

        Raises:
            EdgellmError: it can't be loaded.
        """
        session: type[GraphSession] = load_class(self.target.graph_session)
        return session(self.graph, self.folder, extra=extra, widened=True)

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
        if self.layers < self.depth:
            parts.append(f"first {self.layers} of {self.depth} layers + head")
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
    model_path: Path,
    checkpoint: Checkpoint,
    family: ModelFamily,
    *,
    precision: str,
    mode: Mode,
    target: Target | None = None,
) -> Subject:
    """Return what is to be compared.

    Args:
        model_path: the bound graph; its data lies beside it.
        checkpoint: the original.
        family: its family, which may adapt the config.
        precision: precision of the graph.
        mode: ``layers`` cuts both to the first layers.
        target: what the graph was lowered for; None for ``onnx``.

    Raises:
        GraphNotCuttableError: ``layers``, and the graph or model can't be cut.
        UserError: transformers can't read the config.
    """
    import onnx

    from edgellm_core.quantization.layout import read_layout
    from edgellm_core.tracing.configuration import load_config
    from edgellm_core.verification.cut import cut_after

    graph = onnx.load(str(model_path), load_external_data=False)
    config = load_config(
        checkpoint.directory, checkpoint.config, family, trust_remote_code=checkpoint.trust_remote_code
    )
    whole_config = config
    depth = int(config.get_text_config().num_hidden_layers)
    layers = depth
    if mode == "layers":
        layers = layers_to_keep(config)
        if layers < depth:
            graph = cut_after(graph, layers, depth)
            config = cut_config(config, layers)
    return Subject(
        graph=graph,
        folder=model_path.parent,
        target=target or OnnxTarget(),
        directory=checkpoint.directory,
        config=config,
        whole_config=whole_config,
        precision=precision,
        layers=layers,
        depth=depth,
        tensors=checkpoint.tensors,
        layout=read_layout(checkpoint.directory, checkpoint.config, checkpoint.tensors),
    )


def layers_to_keep(config: PreTrainedConfig) -> int:
    """Return how many first layers hold every kind of layer, at least ``LEAST_LAYERS`` and at most all.

    Raises:
        GraphNotCuttableError: the model has no list of decoder layers.
    """
    import torch

    from edgellm_core.tracing.layers import analyse_stack
    from edgellm_core.tracing.weightless import build_weightless
    from edgellm_core.verification.errors import GraphNotCuttableError

    stack = analyse_stack(build_weightless(copy.deepcopy(config), torch.float32), full_depth=False)
    if stack is None:
        reason = "the model has no list of decoder layers"
        raise GraphNotCuttableError(reason)
    return keep_every_kind(stack.kind_of)


def keep_every_kind(kind_of: Sequence[int]) -> int:
    """Return the length of the shortest prefix with every kind, at least ``LEAST_LAYERS`` and at most all."""
    newest = max(kind_of.index(kind) for kind in set(kind_of))
    return min(len(kind_of), max(LEAST_LAYERS, newest + 1))


def cut_config(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """Return a copy for the first ``layers`` layers; every list with one entry a layer is cut too."""
    cut = copy.deepcopy(config)
    parts: list[Any] = [cut]
    if cut.get_text_config() is not cut:
        parts.append(cut.get_text_config())
    depth = parts[-1].num_hidden_layers
    for part in parts:
        for name, value in list(vars(part).items()):
            if isinstance(value, (list, tuple)) and len(value) == depth:
                setattr(part, name, value[:layers])
        if getattr(part, "num_hidden_layers", None) == depth:
            part.num_hidden_layers = layers
    return cut
