"""Target ``edge-llm``: graph and files that NVIDIA's TensorRT-Edge-LLM 0.11 builds and runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from edgellm_core.contract import ImportedForm, QuantizedForm, Target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import onnx
    import onnx_graphsurgeon as gs

    from edgellm_core.bundle import RuntimeRecord
    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.contract import ModelFamily, Table
    from edgellm_core.quantization.model import QuantizedModel
    from edgellm_core.surgery.rule import Rule


class EdgeLlmTarget(Target):
    """Tokens of all sequences as one list, ``trt_edgellm::AttentionPlugin`` over a paged KV cache, files beside it."""

    name: ClassVar[str] = "edge-llm"
    opset: ClassVar[int] = 24
    domains: ClassVar[tuple[str, ...]] = ("", "trt_edgellm", "trt")
    session: ClassVar[str] = "edgellm_core.runtime.paged.session:PagedSession"
    graph_session: ClassVar[str] = "edgellm_core.verification.paged_session:PagedGraphSession"
    precisions: ClassVar[tuple[str, ...]] = ("fp16",)
    schemes: ClassVar[tuple[str, ...] | None] = ("fp8", "int8_sq", "int4_awq", "nvfp4", "mxfp8")
    kv_caches: ClassVar[tuple[str, ...] | None] = ("fp8",)
    exact_cache_scales: ClassVar[bool] = True
    files_check: ClassVar[str] = "edgellm_core.verification.runtime_files:check_files"
    engine_form: ClassVar[str] = "edgellm_core.engine.edge_llm:EdgeLlmEngineForm"
    builds_engine: ClassVar[bool] = False
    imported_check: ClassVar[str] = "edgellm_core.pipeline.foreign.paged_check:compare"
    takes_imported: ClassVar[bool] = True

    def rules(self) -> Sequence[Rule]:
        """Return the rules; what they can't express they refuse by name."""
        from edgellm_core.targets.edge_llm import experts, fuse_attention, interface, quantized_linear
        from edgellm_core.targets.onnx import lower_linear, lower_norms

        return (
            fuse_attention.AttentionToPlugin(),
            quantized_linear.ConcatToQkvConcat(),
            experts.ReshapeToTokens(),
            experts.ExpertsToPlugin(),
            interface.HeadToChosenTokens(),
            lower_norms.RMSNormToRMSNormalization(),
            lower_norms.LayerNormToLayerNormalization(),
            lower_linear.LinearToMatMul(),
        )

    def imported(self, graph: gs.Graph) -> ImportedForm:
        """Prove what the graph's masks and angles are, and return the rules for it as a traced one."""
        from edgellm_core.targets.edge_llm.imported import read_imported

        return read_imported(graph)

    def quantized(self, model: QuantizedModel) -> QuantizedForm:
        """Return plugins for int4 layers and experts, the Q/DQ form of others, and scales of caches as attributes.

        Raises:
            NoFormError: a kind of weight that the runtime does not take.
            UnalignedInt4Error: an int4 layer whose size the plugin does not take.
        """
        from edgellm_core.targets.edge_llm.int4_experts import int4_experts
        from edgellm_core.targets.edge_llm.quantized_cache import ScaledAppend
        from edgellm_core.targets.edge_llm.quantized_linear import quantized_linears

        linears, experts = quantized_linears(self.name, model), int4_experts(self.name, model)
        caches = (ScaledAppend(model),) if model.caches else ()
        return QuantizedForm(
            rules=(*linears.rules, *experts.rules, *caches), recipes=(*linears.recipes, *experts.recipes)
        )

    def check(self, checkpoint: Checkpoint, family: ModelFamily) -> None:
        """Refuse a checkpoint without tokenizer or chat template."""
        from edgellm_core.targets.edge_llm.files import check

        check(checkpoint, family)

    def finish(self, graph: gs.Graph) -> Mapping[str, Table]:
        """Give the graph the runtime's inputs and outputs; return the embedding table."""
        from edgellm_core.targets.edge_llm.embedding import take_embedding
        from edgellm_core.targets.edge_llm.experts import refuse_other_experts
        from edgellm_core.targets.edge_llm.files import EMBEDDING_FILE
        from edgellm_core.targets.edge_llm.interface import finish

        table = take_embedding(graph)
        refuse_other_experts(graph)
        finish(graph)
        return {EMBEDDING_FILE: table} if table else {}

    def write_files(self, model: onnx.ModelProto, checkpoint: Checkpoint, family: ModelFamily, folder: Path) -> None:
        """Write the runtime's config.json and chat_template.jinja."""
        from edgellm_core.targets.edge_llm.files import write_files

        write_files(model, checkpoint, family, folder)

    def runtime_notes(self, runtime: RuntimeRecord) -> Sequence[str]:
        """Name the rules of generation that the runtime leaves out."""
        from edgellm_core.targets.edge_llm.generation import runtime_notes

        return runtime_notes(runtime)

    def adapt_tokenizer(self, folder: Path) -> None:
        """Write the splits of a text as the runtime's own tokenizer reads them."""
        from edgellm_core.targets.edge_llm.pre_tokenizer import write_plain_splits

        write_plain_splits(folder / "tokenizer.json")

    def engine_note(self, out: Path) -> str:
        """Name the builder of the runtime."""
        return (
            "llm_build of TensorRT-Edge-LLM 0.11 builds it on the device: "
            f"llm_build --onnxDir {out / 'llm'} --engineDir ENGINE_DIR"
        )
