"""The stage ``engine``: which engine a build makes, decided before the long stages, and making it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.checkpoint.dimensions import stated_context_length
from edgellm_core.pipeline.fingerprint import digest_of
from edgellm_core.pipeline.gpu_needs import needed_compute_capabilities

if TYPE_CHECKING:
    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.engine import Backend, EngineForm, ProfileLimits
    from edgellm_core.events import Reporter
    from edgellm_core.pipeline.build import Job
    from edgellm_core.pipeline.export import Export
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


def plan_engine(
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
        stated_context_length(checkpoint.config),
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


def engine_stage(job: Job, plan: EnginePlan | None, export: Export) -> dict[str, Any] | None:
    """Build the engine that was planned; return the fields of its record, None where none was.

    Raises:
        EdgellmError: the engine can't be built; one class per cause.
    """
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
