"""Builds a model in several precisions and measures each against the original."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgellm_core.bundle import check_output
from edgellm_core.bundle.locking import locked
from edgellm_core.checkpoint.source import open_checkpoint
from edgellm_core.errors import EdgellmError
from edgellm_core.events import Listener, ignore_events, stage_events
from edgellm_core.host import PluginHost
from edgellm_core.memory import release_memory
from edgellm_core.pipeline.build import build
from edgellm_core.pipeline.errors import QuantizedCheckpointError
from edgellm_core.pipeline.quality import find_obstacle, held_out_text
from edgellm_core.pipeline.quantized import layout_of
from edgellm_core.registry import ModelRegistry
from edgellm_core.report.comparison import Comparison, PrecisionResult
from edgellm_core.report.page import render_page
from edgellm_core.report.plots import require_matplotlib
from edgellm_core.targets import find_target

if TYPE_CHECKING:
    from edgellm_core.bundle import Bundle
    from edgellm_core.calibration.data import CalibrationSet
    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.contract import ModelFamily, Target
    from edgellm_core.events import Reporter
    from edgellm_core.report.settings import CompareSettings
    from edgellm_core.verification.text_recording import TextRecording

JSON_FILE: Final = "compare.json"
PAGE_FILE: Final = "compare.html"


@dataclass(frozen=True, kw_only=True)
class Original:
    """What the original said.

    Attributes:
        checkpoint: the source.
        family: its family.
        target: what its graphs are lowered for.
        not_measured: why it could not be run; None where it was, and all that follows is there.
        reference: what it is, in words.
        text: held-out text.
        recording: its distributions on that text.
        answers: its answers to the prompts.
    """

    checkpoint: Checkpoint
    family: ModelFamily
    target: Target
    not_measured: str | None = None
    reference: str = ""
    text: CalibrationSet | None = None
    recording: TextRecording | None = None
    answers: tuple[str, ...] = ()


def compare(source: str, out: Path, settings: CompareSettings, *, listener: Listener = ignore_events) -> Comparison:
    """Build a model in several precisions and write ``compare.html`` and ``compare.json``, a bundle beside each.

    A precision that can't be built or run is part of the result, with its error.

    Args:
        source: name in the registry, hub id, directory, or ``.gguf`` file.
        out: directory of the report; the bundles are folders in it.
        settings: what to compare.
        listener: receives the events of all stages.

    Returns:
        The numbers; ``failed`` says what failed.

    Raises:
        EdgellmError: nothing can be compared.
    """
    require_matplotlib()
    _check_outputs(out, settings)
    with locked(out, wait=settings.build_settings(settings.precisions[0]).wait, listener=listener):
        _check_outputs(out, settings)  # whoever had the lock may have published
        out.mkdir(parents=True, exist_ok=True)
        return _compare(source, out, settings, listener)


def _check_outputs(out: Path, settings: CompareSettings) -> None:
    for precision in settings.precisions:
        check_output(out / precision, force=settings.build_settings(precision).force)


def _compare(source: str, out: Path, settings: CompareSettings, listener: Listener) -> Comparison:
    with stage_events("original", listener) as report:
        original = _open(source, settings, report)
    bundles, results = _build_all(source, out, settings, listener)
    with tempfile.TemporaryDirectory(dir=out, prefix=".compare-") as scratch:
        if bundles:
            with stage_events("original", listener) as report:
                original = _run_original(original, next(iter(bundles.values())), settings, Path(scratch), report)
        for precision, bundle in bundles.items():
            with stage_events(precision, listener) as report:
                results[precision] = _measured(results[precision], bundle, original, settings, report)
    comparison = _comparison(source, original, settings, [results[precision] for precision in settings.precisions])
    comparison.write_json(out / JSON_FILE)
    (out / PAGE_FILE).write_text(render_page(comparison), encoding="utf-8")
    return comparison


def _open(source: str, settings: CompareSettings, report: Reporter) -> Original:
    first = settings.build_settings(settings.precisions[0])
    host = PluginHost.load(first.plugin_paths)
    checkpoint = open_checkpoint(
        source,
        registry=ModelRegistry.of_plugins(host.records),
        revision=first.revision,
        report=report,
        trust_remote_code=first.trust_remote_code,
        host=host,
    )
    layout = layout_of(checkpoint)
    if layout is not None:
        raise QuantizedCheckpointError(checkpoint.source.id, layout.describe())
    selection = host.select(checkpoint.config, forced=first.family, directory=checkpoint.directory)
    target = find_target(first.target, host.targets(), attention_scores=first.attention_scores)
    return Original(checkpoint=checkpoint, family=selection.family, target=target)


def _build_all(
    source: str, out: Path, settings: CompareSettings, listener: Listener
) -> tuple[dict[str, Bundle], dict[str, PrecisionResult]]:
    """Return the bundles that could be built, and a result for every precision."""
    bundles, results = {}, {}
    for precision in settings.precisions:
        try:
            bundle = build(source, out / precision, settings.build_settings(precision), listener=listener)
        except EdgellmError as error:
            results[precision] = PrecisionResult(precision=precision, error=str(error))
            continue
        finally:
            release_memory()
        bundles[precision] = bundle
        stages = bundle.manifest.stages
        results[precision] = PrecisionResult(
            precision=precision,
            bundle=precision,
            bytes=sum(record.bytes for record in bundle.manifest.files),
            build_seconds=round(sum(stage.seconds for stage in stages), 3),
            build_peak_mib=max(stage.peak_rss_mib for stage in stages),
        )
    return bundles, results


def _run_original(
    original: Original, bundle: Bundle, settings: CompareSettings, scratch: Path, report: Reporter
) -> Original:
    """Run the original on the held-out text and on the prompts, where it fits in memory."""
    from edgellm_core.report.answers import answer_with_original
    from edgellm_core.runtime.tokenizer import BundleTokenizer
    from edgellm_core.verification.budget import whole_obstacle
    from edgellm_core.verification.memory import free_weights
    from edgellm_core.verification.quality import prove_on_text
    from edgellm_core.verification.reference import load_reference
    from edgellm_core.verification.text_recording import record_text

    first = settings.build_settings(bundle.manifest.precision)
    obstacle = find_obstacle(original.checkpoint, bundle.llm)
    if obstacle:
        report.note(f"The quality is not measured: {obstacle[0]}.")
        return replace(original, not_measured=obstacle[0])
    text = held_out_text(first, original.checkpoint, bundle.llm)
    proving = prove_on_text(
        bundle.model_path,
        original.checkpoint,
        original.family,
        target=original.target,
        max_memory=first.max_memory,
        report=report,
    )
    subject = proving.subject
    tokenizer = BundleTokenizer(bundle.llm)
    path = scratch / "original.f16"
    recording = record_text(proving.original, proving.parts, text.ids, path, directory=subject.directory, report=report)
    too_large = whole_obstacle(proving.original.weights, max_memory=first.max_memory)
    del proving
    answers: tuple[str, ...] = ()
    if too_large:
        report.note(f"The original does not answer: {too_large}.")
    else:
        model = load_reference(subject)
        answers = answer_with_original(
            model,
            tokenizer,
            settings.prompts,
            folder=original.checkpoint.directory,
            max_new_tokens=settings.max_new_tokens,
        )
        free_weights(model)
    release_memory()
    return replace(original, reference=subject.reference, text=text, recording=recording, answers=answers)


def _measured(
    result: PrecisionResult, bundle: Bundle, original: Original, settings: CompareSettings, report: Reporter
) -> PrecisionResult:
    """Return a result with what the graph costs and answers, or with why it could not be run."""
    try:
        result = _with_quality(_with_weights(result, bundle), bundle, original, report)
        return _with_answers(result, bundle, original, settings)
    except EdgellmError as error:
        report.note(str(error))
        return PrecisionResult(precision=result.precision, error=str(error))
    finally:
        release_memory()


def _with_weights(result: PrecisionResult, bundle: Bundle) -> PrecisionResult:
    import onnx

    from edgellm_core.report.linear_weights import linear_weights

    size, elements = linear_weights(onnx.load(str(bundle.model_path), load_external_data=False))
    return replace(result, linear_bytes=size, linear_share=size / (2 * elements) if elements else None)


def _with_quality(result: PrecisionResult, bundle: Bundle, original: Original, report: Reporter) -> PrecisionResult:
    if original.recording is None or original.text is None:
        return result
    from edgellm_core.verification.quality import prove_on_text, quality_record, score_graph

    proving = prove_on_text(
        bundle.model_path, original.checkpoint, original.family, target=original.target, report=report
    )
    score, layer_errors = score_graph(proving, original.recording, report)
    record = quality_record(score, original.recording, original.text, reference=original.reference)
    del proving
    release_memory()
    return replace(
        result,
        perplexity=record.perplexity,
        kl=record.kl,
        top1_agreement=record.top1_agreement,
        layer_errors=tuple(layer_errors),
    )


def _with_answers(
    result: PrecisionResult, bundle: Bundle, original: Original, settings: CompareSettings
) -> PrecisionResult:
    if not original.checkpoint.tokenizer_files():
        return result
    from edgellm_core.report.answers import answer

    answers = answer(bundle, settings.prompts, max_new_tokens=settings.max_new_tokens)
    return replace(
        result,
        answers=answers.texts,
        run_mib=round(answers.run_mib, 1),
        tokens_per_second=round(answers.tokens_per_second, 2),
    )


def _comparison(
    source: str, original: Original, settings: CompareSettings, results: list[PrecisionResult]
) -> Comparison:
    import math

    recording = original.recording
    not_measured = original.not_measured or (None if recording else "no precision could be built")
    return Comparison(
        source=source,
        reference=original.reference,
        text=original.text.source if original.text else "",
        tokens=recording.best.size if recording else 0,
        not_measured=not_measured,
        original_perplexity=math.exp(-recording.log_likelihood) if recording else None,
        prompts=settings.prompts,
        original_answers=original.answers,
        results=tuple(results),
    )
