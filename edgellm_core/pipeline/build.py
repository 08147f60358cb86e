"""One build from source to published bundle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.bundle import (
    Bundle,
    EngineRecord,
    FamilyRecord,
    LeftOutRecord,
    Manifest,
    QualityRecord,
    QuantizationRecord,
    SourceRecord,
    StageRecord,
    SurgeryRecord,
    TokenizerRecord,
    VerificationRecord,
    check_output,
    file_records,
    load_bundle,
    publish,
    write_manifest,
)
from edgellm_core.errors import EdgellmError
from edgellm_core.events import Listener, Reporter, ignore_events
from edgellm_core.host import PluginHost, Selection
from edgellm_core.pipeline.export import Export, export_graph
from edgellm_core.pipeline.fingerprint import (
    MANIFEST_PACKAGES,
    VERIFICATION_PACKAGES,
    code_digest,
    digest_of,
    installed_versions,
)
from edgellm_core.pipeline.gpu_needs import needed_compute_capabilities
from edgellm_core.pipeline.quality import measure
from edgellm_core.pipeline.quantize import quantize_stage
from edgellm_core.pipeline.quantized import layout_of
from edgellm_core.pipeline.runtime_rules import runtime_rules
from edgellm_core.pipeline.settings import BuildSettings
from edgellm_core.pipeline.sources import open_source
from edgellm_core.pipeline.tokenizer import tokenizer_stage
from edgellm_core.pipeline.workspace import StageRunner, Workspace, outcome_fields
from edgellm_core.registry import ModelRegistry
from edgellm_core.runtime.generation_settings import runtime_record
from edgellm_core.targets import find_target, require_precision

if TYPE_CHECKING:
    from pathlib import Path

    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.contract import Target
    from edgellm_core.engine import Backend, EngineForm, ProfileLimits
    from edgellm_core.quantization.layout import QuantizationLayout

ENGINE_FILE: Final = "llm.engine"


@dataclass(frozen=True, kw_only=True)
class EnginePlan:
    """Which engine is going to be built.

    Attributes:
        backend: the package that builds it.
        limits: what it has to take.
        compute_capability: which GPUs it is for; None for the backend's default.
        form: what the target asks for.
    """

    backend: Backend
    limits: ProfileLimits
    compute_capability: int | None
    form: EngineForm


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was found out about the bundle, as fields of the manifest's records.

    Attributes:
        tokenizer: the comparison of tokenizer and chat templates with those of the source.
        verification: the comparison with what it was exported from.
        quality: the comparison with the unquantized original; None where it was not measured.
    """

    tokenizer: dict[str, Any]
    verification: dict[str, Any]
    quality: dict[str, Any] | None


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
    target = find_target(settings.target, host.targets())
    scheme = settings.precision if settings.quantizes else None
    require_precision(target, settings.compute_precision, scheme=scheme, kv_cache=settings.kv_cache)
    job = Job(
        source=source,
        out=out,
        settings=settings,
        host=host,
        target=target,
        workspace=Workspace(out, use_cache=settings.use_cache),
        runner=StageRunner(host=host, listener=listener, settings=_told(source, out, settings), outcomes=[]),
    )
    try:
        _run(job)
    except EdgellmError as error:
        if not error.resumable:
            job.workspace.remove()
        raise
    job.workspace.remove()
    return load_bundle(out, check_digests=False)


def _run(job: Job) -> None:
    settings, runner = job.settings, job.runner
    checkpoint, selection, engine_plan = runner.run("checkpoint", lambda report: _open(job, report))
    original = checkpoint
    tokenizer = tokenizer_stage(
        checkpoint, selection.family, compared=settings.verify != "off", workspace=job.workspace, runner=runner
    )
    if settings.quantizes:
        checkpoint = quantize_stage(
            checkpoint, selection, settings, host=job.host, workspace=job.workspace, runner=runner
        )
    export = export_graph(
        checkpoint, selection, job.target, settings, host=job.host, workspace=job.workspace, runner=runner
    )
    verification = _verify_stage(job, checkpoint, selection, export)
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
    proof = Proof(tokenizer=tokenizer, verification=verification, quality=quality)
    engine = _engine_stage(job, engine_plan, export)
    runner.run("publish", lambda report: _publish(job, checkpoint, selection, export, proof, engine, report))


def _open(job: Job, report: Reporter) -> tuple[Checkpoint, Selection, EnginePlan | None]:
    checkpoint = open_source(
        job.source,
        registry=ModelRegistry.load(),
        revision=job.settings.revision,
        report=report,
        trust_remote_code=job.settings.trust_remote_code,
    )
    runtime_record(checkpoint.directory)  # refuses wrong settings before the long stages
    layout = layout_of(checkpoint)
    if layout is not None:
        report.note(f"The checkpoint is quantized: {layout.describe()}.")
    selection = job.host.select(checkpoint.config, forced=job.settings.family, directory=checkpoint.directory)
    job.target.check(checkpoint, selection.family)
    report.note(f"Family {selection.family.name!r}: {selection.reason}.")
    return checkpoint, selection, _engine_plan(job, checkpoint, layout, report)


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
        from edgellm_core.verification.mode import choose_mode

        mode = choose_mode(
            settings.verify, checkpoint, settings.compute_precision, max_memory=settings.max_memory, report=report
        )
        result = verify_graph(
            export.model_path,
            checkpoint,
            selection.family,
            precision=settings.compute_precision,
            target=job.target,
            mode=mode,
            tolerance=tolerance,
            report=report,
        )
        fields: dict[str, Any] = result.record().model_dump()
        return fields

    record: dict[str, Any] = job.runner.resume("verify", job.workspace, fingerprint, body)
    return record


def _registered_tolerance(job: Job) -> float | None:
    """Return the registry's own tolerance for this model and precision; None for that of the precision."""
    registry = ModelRegistry.load()
    if job.source not in registry:
        return None
    precisions = registry.get(job.source).precisions
    return next((status.max_rel_err for name, status in precisions.items() if name == job.settings.precision), None)


def _engine_plan(
    job: Job, checkpoint: Checkpoint, layout: QuantizationLayout | None, report: Reporter
) -> EnginePlan | None:
    """Decide about the engine before the long stages, so that a wrong setting costs nothing.

    Raises:
        ZeroPointsError: an engine was asked for, and TensorRT does not take what the checkpoint holds.
        TooOldGpuError: an engine was asked for, and its GPU does not compute with what is quantized.
        UserError: the engine can't be built here; one class per cause.
    """
    settings = job.settings
    if settings.engine == "auto" and not job.target.builds_engine:
        report.note(f"No engine: {job.target.engine_note(job.out)}")
        return None
    from edgellm_core.engine import choose_backend, engine_form, limits_for_context
    from edgellm_core.engine.errors import NO_BACKEND, OtherEngineBuilderError, TooOldGpuError, ZeroPointsError

    form = engine_form(job.target)
    if settings.engine not in ("auto", "none", *form.backends):
        raise OtherEngineBuilderError(job.target.name, settings.engine, form.backends)
    limits = limits_for_context(
        checkpoint.config.get("max_position_embeddings"),
        max_batch_size=settings.max_batch_size,
        max_input_len=settings.max_input_len,
        max_seq_len=settings.max_seq_len,
    )
    backend = choose_backend(settings.engine, report, compute_capability=settings.compute_capability)
    if backend is None:
        if settings.engine == "auto":
            report.note(f"No engine: {NO_BACKEND}")
        return None
    if layout is not None and "uint4" in layout.counts():
        if settings.engine != "auto":
            raise ZeroPointsError(backend.name)
        report.note("No engine: TensorRT takes no weights with zero points. The graph runs on ONNX Runtime.")
        return None
    target = backend.target(settings.compute_capability)
    needed = needed_compute_capabilities(settings, layout, job.host.schemes())
    lacking = {name: least for name, least in needed.items() if target is not None and least > target}
    if target is not None and lacking:
        if settings.engine != "auto" or settings.compute_capability is not None:
            raise TooOldGpuError(lacking, target)
        report.note(f"No engine: this GPU (SM {target}) lacks {', '.join(lacking)}.")
        return None
    form.libraries(backend, target)
    return EnginePlan(backend=backend, limits=limits, compute_capability=target, form=form)


def _engine_stage(job: Job, plan: EnginePlan | None, export: Export) -> dict[str, Any] | None:
    if plan is None:
        return None

    def body(report: Reporter) -> dict[str, Any]:
        from edgellm_core.engine import build_engine
        from edgellm_core.engine.bundle_engine import manifest_record

        plan.form.check_limits(job.workspace.llm, plan.limits)
        record = build_engine(
            export.model_path,
            job.workspace.llm / ENGINE_FILE,
            backend=plan.backend,
            compute_capability=plan.compute_capability,
            limits=plan.limits,
            report=report,
            form=plan.form,
        )
        plan.form.write_settings(job.workspace.llm, plan.limits)
        fields: dict[str, Any] = manifest_record(record).model_dump()
        return fields

    asked = [plan.backend.name, plan.backend.version(), plan.compute_capability, str(plan.limits)]
    record: dict[str, Any] = job.runner.resume("engine", job.workspace, digest_of(export.fingerprint, *asked), body)
    return record


def _publish(
    job: Job,
    checkpoint: Checkpoint,
    selection: Selection,
    export: Export,
    proof: Proof,
    engine: dict[str, Any] | None,
    report: Reporter,
) -> None:
    source, settings = checkpoint.source, job.settings
    layout = layout_of(checkpoint)
    manifest = Manifest(
        source=SourceRecord(kind=source.kind, id=source.id, revision=source.revision, digest=source.digest),
        family=FamilyRecord(name=selection.family.name, plugin=selection.plugin.name, version=selection.plugin.version),
        target=job.target.name,
        precision=settings.precision if layout is None or settings.quantizes else layout.scheme,
        quantization=_quantization_record(layout, settings) if layout else None,
        left_out=tuple(LeftOutRecord(**fields) for fields in export.left_out),
        versions=installed_versions((*MANIFEST_PACKAGES, *([engine["backend"]] if engine else []))),
        stages=tuple(StageRecord(**outcome_fields(outcome)) for outcome in job.runner.outcomes),
        tokenizer=TokenizerRecord(**proof.tokenizer),
        verification=VerificationRecord(**proof.verification),
        quality=QualityRecord(**proof.quality) if proof.quality else None,
        runtime=runtime_rules(checkpoint, export.reread, target=job.target, folder=job.workspace.llm, report=report),
        surgery=tuple(
            SurgeryRecord(rule=r.rule, expected=r.expected.as_json(), applied=r.applied) for r in export.graph.rules
        ),
        engine=EngineRecord(**engine) if engine else None,
        files=tuple(file_records(job.workspace.bundle, export.digests)),
    )
    write_manifest(job.workspace.bundle, manifest)
    publish(job.workspace.bundle, job.out, force=job.settings.force)


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
