"""The stage ``sample``: one answer of the graph and of the original, so that people see what numbers do not say."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.bundle import SampleRecord
from edgellm_core.checkpoint.machine import available_memory
from edgellm_core.errors import EdgellmError
from edgellm_core.memory import release_memory
from edgellm_core.pipeline.fingerprint import VERIFICATION_PACKAGES, code_digest, digest_of, installed_versions
from edgellm_core.pipeline.quantized import layout_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgellm_core.bundle import RuntimeRecord
    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.contract import ModelFamily, Target
    from edgellm_core.events import Reporter
    from edgellm_core.pipeline.settings import BuildSettings
    from edgellm_core.pipeline.workspace import StageRunner, Workspace
    from edgellm_core.runtime.tokenizer import BundleTokenizer

QUESTION: Final = "What is the capital of France?"
NEW_TOKENS: Final = 32

FLAT_MEMORY: Final = 2 * 2**30
"""What a sample of a build in floats may take where ``--max-memory`` does not say. Its graph equals the original, so
its answer tells little, and no other stage grows with the model."""

LIBRARIES: Final = 600 * 2**20
"""What torch, transformers and ONNX Runtime take without a model."""


def sample_stage(  # noqa: PLR0913  # who is asked, how, and where that is kept
    original: Checkpoint,
    family: ModelFamily,
    settings: BuildSettings,
    runtime: RuntimeRecord,
    model_path: Path,
    *,
    target: Target,
    fingerprint: str,
    workspace: Workspace,
    runner: StageRunner,
) -> dict[str, Any]:
    """Ask the graph and the unquantized original one question.

    Args:
        original: the source.
        family: its family.
        settings: what was asked for.
        runtime: what has to be done beside running the graph.
        model_path: the graph, its tokenizer beside it.
        target: what the graph was lowered for.
        fingerprint: identifies the graph.
        workspace: holds earlier results.
        runner: runs the stage.

    Returns:
        Fields of a :class:`SampleRecord`.
    """
    asked = digest_of(fingerprint, runtime.model_dump(), installed_versions(VERIFICATION_PACKAGES), code_digest())

    def body(report: Reporter) -> dict[str, Any]:
        record = take_sample(original, family, settings, runtime, model_path, target)
        for whose, reason in (("the bundle", record.no_bundle), ("the original", record.no_original)):
            if reason:
                report.note(f"No sample answer of {whose}: {reason}.")
        fields: dict[str, Any] = record.model_dump()
        return fields

    sampled: dict[str, Any] = runner.resume("sample", workspace, asked, body)
    return sampled


def take_sample(
    original: Checkpoint,
    family: ModelFamily,
    settings: BuildSettings,
    runtime: RuntimeRecord,
    model_path: Path,
    target: Target,
) -> SampleRecord:
    """Return one answer of both; see :func:`sample_stage`."""
    folder = model_path.parent
    if not (folder / "tokenizer.json").is_file():
        reason = "the model has no tokenizer"
        return SampleRecord(question=QUESTION, chat=False, no_bundle=reason, no_original=reason)
    from edgellm_core.runtime.tokenizer import BundleTokenizer

    tokenizer = BundleTokenizer(folder)
    ids, chat = _ask(tokenizer)
    fields: dict[str, Any] = {"question": QUESTION, "chat": chat}
    obstacle = memory_obstacle(original, model_path, settings)
    if obstacle:
        return SampleRecord(**fields, no_bundle=obstacle, no_original=obstacle)
    try:
        fields["bundle"] = tokenizer.decode(_graph_answer(model_path, target, runtime, ids))
    except EdgellmError as error:  # the gate has run the graph already, in a session of its own
        fields["no_bundle"] = str(error).rstrip(".")
    release_memory()
    if layout_of(original) is not None:
        return SampleRecord(**fields, no_original="the source is quantized already")
    try:
        fields["original"] = tokenizer.decode(_original_answer(original, family, ids))
    except EdgellmError as error:
        fields["no_original"] = str(error).rstrip(".")
    release_memory()
    return SampleRecord(**fields)


def memory_obstacle(original: Checkpoint, model_path: Path, settings: BuildSettings) -> str | None:
    """Return why graph and original are too large to be run here; None where they are not."""
    parameters = sum(math.prod(entry.shape) for entry in original.tensors.values())
    graph = sum(path.stat().st_size for path in model_path.parent.glob("*.data"))
    needed = LIBRARIES + 4 * parameters + graph  # ONNX Runtime keeps float32 copies of what it computes with
    free = available_memory()
    budget = settings.max_memory or (free * 3 // 4 if settings.quantizes else min(FLAT_MEMORY, free * 3 // 4))
    if needed <= budget:
        return None
    return (
        f"running the whole model takes up to {needed / 2**30:.1f} GiB of main memory, {budget / 2**30:.1f} GiB are "
        f"allowed; --max-memory {math.ceil(needed / 2**30)}GiB allows it"
    )


def _ask(tokenizer: BundleTokenizer) -> tuple[list[int], bool]:
    """Return the question's tokens, and whether they are in the chat template."""
    try:
        rendered = tokenizer.render_chat([{"role": "user", "content": QUESTION}])
    except EdgellmError:  # no template, or one that wants more than a question
        return tokenizer.encode(QUESTION), False
    return tokenizer.encode(rendered, add_special_tokens=False), True


def _graph_answer(model_path: Path, target: Target, runtime: RuntimeRecord, ids: Sequence[int]) -> list[int]:
    from edgellm_core.runtime.generate import answer
    from edgellm_core.targets import load_class

    session = load_class(target.session)(model_path)
    return list(answer(session, ids, runtime, max_new_tokens=NEW_TOKENS))


def _original_answer(original: Checkpoint, family: ModelFamily, ids: Sequence[int]) -> list[int]:
    from edgellm_core.verification.generation import load_for_generation, original_answer

    model = load_for_generation(original, family)
    return list(original_answer(model, original.directory, ids, max_new_tokens=NEW_TOKENS).tokens)
