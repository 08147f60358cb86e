"""One build from source to published bundle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgellm_core.bundle import (
    AnswersRecord,
    Bundle,
    EngineRecord,
    FamilyRecord,
    LeftOutRecord,
    Manifest,
    QualityRecord,
    QuantizationRecord,
    RuntimeRecord,
    SampleRecord,
    SourceRecord,
    StageRecord,
    SurgeryRecord,
    TargetPluginRecord,
    TokenizerRecord,
    VerificationRecord,
    check_output,
    file_records,
    load_bundle,
    publish,
    write_manifest,
)
from edgellm_core.events import Listener, Reporter, ignore_events
from edgellm_core.host import PluginHost, Selection
from edgellm_core.pipeline.answers import answers_stage
from edgellm_core.pipeline.checks import check_files, require_types
from edgellm_core.pipeline.closeness import closeness_warning
from edgellm_core.pipeline.engine import EnginePlan, engine_stage, plan_engine
from edgellm_core.pipeline.export import Export, export_graph
from edgellm_core.pipeline.fingerprint import (
    MANIFEST_PACKAGES,
    VERIFICATION_PACKAGES,
    code_digest,
    digest_of,
    installed_versions,
)
from edgellm_core.pipeline.quality import measure
from edgellm_core.pipeline.quantize import quantize_stage
from edgellm_core.pipeline.quantized import layout_of
from edgellm_core.pipeline.runtime_rules import tell_rules
from edgellm_core.pipeline.sample import sample_stage
from edgellm_core.pipeline.settings import BuildSettings
from edgellm_core.pipeline.sources import open_source, unchanging
from edgellm_core.pipeline.tokenizer import tokenizer_stage
from edgellm_core.pipeline.twin import takes_one_token, twin_stage
from edgellm_core.pipeline.workspace import StageRunner, Workspace, open_workspace, outcome_fields
from edgellm_core.registry import ModelRegistry
from edgellm_core.runtime.generation_settings import runtime_record
from edgellm_core.targets import find_target, require_precision

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.checkpoint.source import SourceRecord as SourceOfCheckpoint
    from edgellm_core.contract import Target
    from edgellm_core.quantization.layout import QuantizationLayout


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was found out about the bundle, as fields of the manifest's records.

    Attributes:
        tokenizer: the comparison of tokenizer and chat templates with those of the source.
        verification: the comparison with what it was exported from.
        quality: the comparison with the unquantized original; None where it was not measured.
        runtime: what a runtime has to do beside running the graph.
        answers: how that was compared; empty without verification.
        sample: an answer beside one of the original; None without verification.
    """

    tokenizer: dict[str, Any]
    verification: dict[str, Any]
    quality: dict[str, Any] | None
    runtime: RuntimeRecord
    answers: Sequence[dict[str, Any]] = ()
    sample: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Made:
    """What the stages made, before it is published.

    Attributes:
        checkpoint: what the graph was made of: the source, or its quantized form.
        export: the bound graph.
        proof: what was found out about it.
        engine: fields of the manifest's record; None without one.
    """

    checkpoint: Checkpoint
    export: Export
    proof: Proof
    engine: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Job:
    """One build with everything that its stages share.

    Attributes:
        source: as the user named it.
        out: where the bundle goes.
        settings: what was asked for.
        host: the plugins.
        target: the target.
        workspace: the work directory.
        runner: runs the stages.
    """

    source: str
    out: Path
    settings: BuildSettings
    host: PluginHost
    target: Target
    workspace: Workspace
    runner: StageRunner


def build(
    source: str, out: Path, settings: BuildSettings | None = None, *, listener: Listener = ignore_events
) -> Bundle:
    """Build a verified bundle.

    Args:
        source: name in the registry, hub id, directory, or ``.gguf`` file.
        out: directory to publish; must not exist, or be a bundle and ``settings.force``.
        settings: what to build; None for the defaults.
        listener: receives the events of all stages.

    Returns:
        The published bundle.

    Raises:
        EdgellmError: the model can't be built, or differs from the original; nothing is published.
    """
    settings = settings or BuildSettings()
    check_output(out, force=settings.force)
    host = PluginHost.load(settings.plugin_paths)
    target = find_target(settings.target, host.targets(), attention_scores=settings.attention_scores)
    scheme = settings.precision if settings.quantizes else None
    require_precision(target, settings.compute_precision, scheme=scheme, kv_cache=settings.kv_cache)
    with open_workspace(
        out,
        lambda: check_output(out, force=settings.force),
        use_cache=settings.use_cache,
        wait=settings.wait,
        listener=listener,
    ) as workspace:
        runner = StageRunner(host=host, listener=listener, settings=_told(source, out, settings), outcomes=[])
        _run(
            Job(
                source=source,
                out=out,
                settings=settings,
                host=host,
                target=target,
                workspace=workspace,
                runner=runner,
            )
        )
        return load_bundle(out, check_digests=False)


def _run(job: Job) -> None:
    runner = job.runner
    checkpoint, selection, engine_plan = runner.run("checkpoint", lambda report: _open(job, report))
    with unchanging(checkpoint, runner) as values:
        made = _make(job, checkpoint, selection, engine_plan)
        source = values.source()
    runner.run("publish", lambda report: _publish(job, made, source, selection, report))


def _make(job: Job, checkpoint: Checkpoint, selection: Selection, engine_plan: EnginePlan | None) -> Made:
    """Run the stages between the open checkpoint and the published bundle."""
    settings, runner, original = job.settings, job.runner, checkpoint
    tokenizer = tokenizer_stage(
        checkpoint,
        selection.family,
        job.target,
        compared=settings.verify != "off",
        workspace=job.workspace,
        runner=runner,
    )
    if settings.quantizes:
        checkpoint = quantize_stage(
            checkpoint, selection, settings, host=job.host, workspace=job.workspace, runner=runner
        )
    export = export_graph(
        checkpoint, selection, job.target, settings, host=job.host, workspace=job.workspace, runner=runner
    )
    twin = _twin_stage(job, checkpoint, selection, export)
    verification = {**_verify_stage(job, checkpoint, selection, export), "twin": twin}
    quality = measure(
        settings,
        original,
        selection.family,
        export.model_path,
        target=job.target,
        fingerprint=export.fingerprint,
        workspace=job.workspace,
        runner=runner,
    )
    runtime = runtime_record(checkpoint.directory, reread_at=export.reread.at if export.reread else None)
    proof = Proof(tokenizer=tokenizer, verification=verification, quality=quality, runtime=runtime)
    if settings.verify != "off":
        proof = replace(
            proof,
            answers=answers_stage(
                checkpoint,
                runtime,
                export.model_path,
                fingerprint=export.fingerprint,
                workspace=job.workspace,
                runner=runner,
            ),
            sample=sample_stage(
                original,
                selection.family,
                settings,
                runtime,
                export.model_path,
                target=job.target,
                fingerprint=export.fingerprint,
                workspace=job.workspace,
                runner=runner,
            ),
        )
    return Made(checkpoint=checkpoint, export=export, proof=proof, engine=engine_stage(job, engine_plan, export))


def _open(job: Job, report: Reporter) -> tuple[Checkpoint, Selection, EnginePlan | None]:
    checkpoint = open_source(
        job.source,
        registry=ModelRegistry.of_plugins(job.host.records),
        revision=job.settings.revision,
        report=report,
        trust_remote_code=job.settings.trust_remote_code,
        host=job.host,
    )
    check_files(checkpoint)
    layout = layout_of(checkpoint)
    if layout is not None:
        report.note(f"The checkpoint is quantized: {layout.describe()}.")
    selection = job.host.select(checkpoint.config, forced=job.settings.family, directory=checkpoint.directory)
    job.target.check(checkpoint, selection.family)
    report.note(f"Family {selection.family.name!r}: {selection.reason}.")
    return checkpoint, selection, plan_engine(job, checkpoint, layout, report)


def _twin_stage(job: Job, checkpoint: Checkpoint, selection: Selection, export: Export) -> dict[str, Any] | None:
    if job.settings.verify == "off":
        return None
    return twin_stage(
        checkpoint,
        selection,
        host=job.host,
        runner=job.runner,
        one_token=takes_one_token(export.graph.model),
        use_cache=job.settings.use_cache,
    )


def _verify_stage(job: Job, checkpoint: Checkpoint, selection: Selection, export: Export) -> dict[str, Any]:
    settings = job.settings
    if settings.verify == "off":
        return {"status": "skipped"}
    tolerance = _registered_tolerance(job)
    versions = installed_versions(VERIFICATION_PACKAGES)
    asked = [settings.verify, settings.max_memory, tolerance]
    fingerprint = digest_of(export.fingerprint, *asked, versions, code_digest())

    def body(report: Reporter) -> dict[str, Any]:
        from edgellm_core.verification.gate import verify_graph

        require_types(export.graph.model, checkpoint, selection, settings.compute_precision, report)
        result = verify_graph(
            export.model_path,
            checkpoint,
            selection.family,
            precision=settings.compute_precision,
            target=job.target,
            tolerance=tolerance,
            max_memory=settings.max_memory,
            report=report,
        )
        fields: dict[str, Any] = result.record().model_dump()
        return fields

    record: dict[str, Any] = job.runner.resume("verify", job.workspace, fingerprint, body)
    return record


def _registered_tolerance(job: Job) -> float | None:
    """Return the registry's own tolerance for this model and precision; None for that of the precision."""
    registry = ModelRegistry.of_plugins(job.host.records)
    if job.source not in registry:
        return None
    precisions = registry.get(job.source).precisions
    return next((status.max_rel_err for name, status in precisions.items() if name == job.settings.precision), None)


def _publish(job: Job, made: Made, source: SourceOfCheckpoint, selection: Selection, report: Reporter) -> None:
    checkpoint, export, proof, engine = made.checkpoint, made.export, made.proof, made.engine
    warning = closeness_warning(proof.quality, job.settings)
    if warning:
        report.note(warning)
    tell_rules(proof.runtime, export.reread, target=job.target, folder=job.workspace.llm, report=report)
    settings = job.settings
    layout = layout_of(checkpoint)
    manifest = Manifest(
        source=SourceRecord(kind=source.kind, id=source.id, revision=source.revision, digest=source.digest),
        family=FamilyRecord(
            name=selection.family.name,
            plugin=selection.plugin.name,
            version=selection.plugin.version,
            package=selection.plugin.package,
        ),
        target=job.target.name,
        target_plugin=_target_plugin(job),
        precision=settings.precision if layout is None or settings.quantizes else layout.scheme,
        attention_scores=job.target.attention_scores,
        quantization=_quantization_record(layout, settings) if layout else None,
        left_out=tuple(LeftOutRecord(**fields) for fields in export.left_out),
        versions=installed_versions((*MANIFEST_PACKAGES, *([engine["backend"]] if engine else []))),
        stages=tuple(StageRecord(**outcome_fields(outcome)) for outcome in job.runner.outcomes),
        tokenizer=TokenizerRecord(**proof.tokenizer),
        verification=VerificationRecord(**proof.verification),
        quality=QualityRecord(**proof.quality) if proof.quality else None,
        runtime=proof.runtime,
        answers=tuple(AnswersRecord(**fields) for fields in proof.answers),
        sample=SampleRecord(**proof.sample) if proof.sample else None,
        surgery=tuple(
            SurgeryRecord(rule=r.rule, expected=r.expected.as_json(), applied=r.applied) for r in export.graph.rules
        ),
        engine=EngineRecord(**engine) if engine else None,
        files=tuple(file_records(job.workspace.bundle, export.digests)),
    )
    write_manifest(job.workspace.bundle, manifest)
    publish(job.workspace.bundle, job.out, force=job.settings.force)


def _target_plugin(job: Job) -> TargetPluginRecord | None:
    made = job.host.target_plugin(job.target.name)
    return None if made is None else TargetPluginRecord(plugin=made.name, version=made.version, package=made.package)


def _quantization_record(layout: QuantizationLayout, settings: BuildSettings) -> QuantizationRecord:
    return QuantizationRecord(
        linears=layout.counts(),
        kv_cache=layout.kv_cache,
        compute_precision=settings.compute_precision,
        producer=layout.producer,
    )


def _told(source: str, out: Path, settings: BuildSettings) -> dict[str, Any]:
    """Return what stage hooks of plugins are told."""
    return {
        "source": source,
        "out": str(out),
        "target": settings.target,
        "precision": settings.precision,
        "verify": settings.verify,
        "engine": settings.engine,
    }
