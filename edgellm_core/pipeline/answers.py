"""The stage ``answers``: what a runtime has to do beside running the graph, held to transformers' ``generate``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgellm_core.bundle import AnswersRecord
from edgellm_core.pipeline.fingerprint import VERIFICATION_PACKAGES, code_digest, digest_of, installed_versions

if TYPE_CHECKING:
    from pathlib import Path

    from edgellm_core.bundle import RuntimeRecord
    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.events import Reporter
    from edgellm_core.pipeline.workspace import StageRunner, Workspace
    from edgellm_core.verification.generation import GenerationComparison

SETTINGS_REFERENCE = "settings and stop tokens, over a model whose next token depends on the last one"


def answers_stage(
    checkpoint: Checkpoint,
    runtime: RuntimeRecord,
    model_path: Path,
    *,
    fingerprint: str,
    workspace: Workspace,
    runner: StageRunner,
) -> list[dict[str, Any]]:
    """Compare what the bundle tells a runtime with what ``generate`` does.

    Args:
        checkpoint: the original.
        runtime: what the bundle tells.
        model_path: the graph.
        fingerprint: identifies the graph and the checkpoint.
        workspace: holds earlier results.
        runner: runs the stage.

    Returns:
        Fields of each :class:`AnswersRecord`.

    Raises:
        GenerationDiffersError: an answer differs.
        OriginalGenerationError: ``generate`` refuses the settings of the checkpoint.
    """
    asked = digest_of(fingerprint, runtime.model_dump(), installed_versions(VERIFICATION_PACKAGES), code_digest())

    def body(_report: Reporter) -> list[dict[str, Any]]:
        return [prove_settings(checkpoint, runtime, model_path).model_dump()]

    proved: list[dict[str, Any]] = runner.resume("answers", workspace, asked, body)
    return proved


def prove_settings(checkpoint: Checkpoint, runtime: RuntimeRecord, model_path: Path) -> AnswersRecord:
    """Compare settings and stop tokens on the vocabulary of a graph; see :func:`compare_settings`."""
    from edgellm_core.verification.bigram import compare_settings

    found = compare_settings(runtime, checkpoint.directory, vocabulary=count_logits(model_path))
    return answers_record(SETTINGS_REFERENCE, found)


def answers_record(reference: str, found: GenerationComparison) -> AnswersRecord:
    """Return the manifest's record of a comparison."""
    return AnswersRecord(
        reference=reference,
        prompts=found.prompts,
        tokens=found.tokens,
        max_rel_err=found.max_rel_err,
        ties=found.ties,
    )


def count_logits(model_path: Path) -> int:
    """Return the number of logits of a graph, without reading its weights."""
    import onnx

    model = onnx.load(str(model_path), load_external_data=False)
    logits = next(value for value in model.graph.output if value.name == "logits")
    return int(logits.type.tensor_type.shape.dim[-1].dim_value)
