"""The stage quality: what a precision costs, measured on held-out text, and the limit ``--max-kl``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgellm_core.pipeline.errors import QualityLimitError, QualityNotMeasurableError
from edgellm_core.pipeline.fingerprint import code_digest, digest_of
from edgellm_core.pipeline.quantized import layout_of

if TYPE_CHECKING:
    from pathlib import Path

    from edgellm_core.calibration.data import CalibrationSet
    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.contract import ModelFamily, Target
    from edgellm_core.events import Reporter
    from edgellm_core.pipeline.settings import BuildSettings
    from edgellm_core.pipeline.workspace import StageRunner, Workspace


def measure(  # noqa: PLR0913  # each says what is compared, with what, or how
    settings: BuildSettings,
    original: Checkpoint,
    family: ModelFamily,
    model_path: Path,
    *,
    target: Target,
    fingerprint: str,
    workspace: Workspace,
    runner: StageRunner,
) -> dict[str, Any] | None:
    """Measure a graph where that is wanted and possible, and hold it to ``--max-kl``.

    Args:
        settings: what was asked for.
        original: the source checkpoint.
        family: its family.
        model_path: the bound graph, its tokenizer beside it.
        target: what the graph was lowered for.
        fingerprint: identifies the graph.
        workspace: holds earlier results.
        runner: runs the stage.

    Returns:
        Fields of a ``QualityRecord``; None where it was not measured.

    Raises:
        QualityLimitError: the graph is farther from the original than ``--max-kl`` allows.
        QualityNotMeasurableError: there is a limit, and the quality can't be measured.
    """
    if not is_wanted(settings):
        return None
    key = digest_of(fingerprint, settings.quality_samples, settings.quality_length, code_digest())

    def body(report: Reporter) -> dict[str, Any]:
        obstacle = find_obstacle(original, model_path.parent)
        if obstacle:
            if settings.max_kl is not None:
                raise QualityNotMeasurableError(*obstacle)
            report.note(f"The quality is not measured: {obstacle[0]}.")
            return {}
        from edgellm_core.verification.quality import measure_quality

        text = held_out_text(settings, original, model_path.parent)
        record = measure_quality(
            model_path,
            original,
            family,
            text,
            target=target,
            folder=workspace.directory,
            max_kl=settings.max_kl,
            max_memory=settings.max_memory,
            report=report,
        )
        fields: dict[str, Any] = record.model_dump()
        return fields

    measured: dict[str, Any] = runner.resume("quality", workspace, key, body)
    if not measured:
        return None
    if settings.max_kl is not None and measured["kl"] > settings.max_kl:
        raise QualityLimitError(measured["kl"], settings.max_kl)
    return {**measured, "max_kl": settings.max_kl}


def is_wanted(settings: BuildSettings) -> bool:
    """Return whether the quality is to be measured: for quantized builds unless switched off, and where asked for."""
    if settings.quality == "auto":
        return settings.max_kl is not None or settings.quantizes
    return settings.quality == "on"


def held_out_text(settings: BuildSettings, original: Checkpoint, llm: Path) -> CalibrationSet:
    """Return the samples to measure with, as long as the model's context allows.

    Args:
        settings: samples and tokens of each.
        original: the source checkpoint.
        llm: folder with the tokenizer.
    """
    from edgellm_core.calibration.data import held_out_set
    from edgellm_core.checkpoint.dimensions import read_dimensions, stated_context_length
    from edgellm_core.runtime.generate import require_known
    from edgellm_core.runtime.tokenizer import BundleTokenizer

    context = stated_context_length(original.config) or settings.quality_length
    length = min(settings.quality_length, context)
    text = held_out_set(BundleTokenizer(llm), samples=settings.quality_samples, length=length)
    require_known(text.ids.flat, read_dimensions(original.config).vocab_size)
    return text


def find_obstacle(original: Checkpoint, llm: Path) -> tuple[str, str] | None:
    """Return why the quality can't be measured and what helps; None where it can."""
    if layout_of(original) is not None:
        return "the source is quantized already, so there is no original", "Leave --max-kl out."
    if not (llm / "tokenizer.json").is_file():
        return "the checkpoint has no tokenizer to read text with", "Leave --max-kl out."
    return None
