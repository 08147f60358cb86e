"""Gives an existing bundle an engine, or a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgellm_core.checkpoint.dimensions import stated_context_length
from edgellm_core.engine.builder import EngineRecord, build_engine
from edgellm_core.engine.errors import OtherEngineBuilderError
from edgellm_core.engine.profiles import limits_for_context
from edgellm_core.events import peak_rss_mib
from edgellm_core.runtime.tokenizer import read_settings

if TYPE_CHECKING:
    from edgellm_core import bundle as bundles
    from edgellm_core.engine.backend import Backend
    from edgellm_core.engine.form import EngineForm
    from edgellm_core.engine.profiles import ProfileLimits
    from edgellm_core.events import Reporter

ENGINE_NAME = "llm.engine"


def add_engine(
    bundle: bundles.Bundle,
    *,
    form: EngineForm,
    backend: Backend,
    compute_capability: int | None,
    report: Reporter,
    limits: ProfileLimits,
) -> EngineRecord:
    """Build ``llm/llm.engine`` of a bundle and write it into the manifest.

    The bundle is loadable at every moment: an old engine leaves the manifest before its file is replaced, and the new
    one enters it afterwards.

    Args:
        bundle: a loaded bundle.
        form: what its target asks for.
        backend: package to build with.
        compute_capability: as :func:`build_engine`.
        report: as :func:`build_engine`.
        limits: what it has to take (:func:`bundle_limits`).

    Raises:
        OtherEngineBuilderError: the target's engines are built with another package.
        InvalidSettingError: with these limits the runtime would not compute what the original does.
        EdgellmError: as :func:`build_engine`.
    """
    from edgellm_core.bundle import write_manifest

    if backend.name not in form.backends:
        raise OtherEngineBuilderError(bundle.manifest.target, backend.name, form.backends)
    form.check_limits(bundle.llm, limits)
    without = _without_engine(bundle.manifest)
    if bundle.manifest.engine is not None:
        write_manifest(bundle.directory, without)
    record = build_engine(
        bundle.model_path,
        bundle.llm / ENGINE_NAME,
        backend=backend,
        compute_capability=compute_capability,
        limits=limits,
        report=report,
        form=form,
    )
    changed = {f"llm/{name}" for name in form.write_settings(bundle.llm, limits)}
    write_manifest(bundle.directory, _with_engine(bundle, without, record, changed))
    return record


def bundle_limits(
    bundle: bundles.Bundle, *, max_batch_size: int | None, max_input_len: int | None, max_seq_len: int | None
) -> ProfileLimits:
    """Fill in the limits that were not given, within the context of the bundle's model.

    Raises:
        InvalidSettingError: as :func:`limits_for_context`.
    """
    return limits_for_context(
        stated_context_length(read_settings(bundle.llm / "config.json")),
        max_batch_size=max_batch_size,
        max_input_len=max_input_len,
        max_seq_len=max_seq_len,
    )


def manifest_record(record: EngineRecord) -> bundles.EngineRecord:
    """Return what bundle.json says about an engine."""
    from edgellm_core.bundle import EngineRecord as ManifestEngine
    from edgellm_core.bundle import ProfileRecord

    return ManifestEngine(
        backend=record.backend,
        version=record.version,
        compute_capability=record.compute_capability,
        profiles=tuple(
            ProfileRecord(name=profile.name, batch=profile.batch, seq=profile.seq, past=profile.past)
            for profile in record.profiles
        ),
        bytes=record.bytes,
    )


def _without_engine(manifest: bundles.Manifest) -> bundles.Manifest:
    return manifest.model_copy(
        update={
            "engine": None,
            "files": tuple(file for file in manifest.files if file.path != f"llm/{ENGINE_NAME}"),
            "stages": tuple(stage for stage in manifest.stages if stage.name != "engine"),
        }
    )


def _with_engine(
    bundle: bundles.Bundle, without: bundles.Manifest, record: EngineRecord, changed: set[str]
) -> bundles.Manifest:
    """Return the manifest with the engine, and new digests of the files that changed."""
    from edgellm_core.bundle import StageRecord, file_records

    known = {file.path: file.sha256 for file in without.files if file.path not in changed}
    listed = {*known, *changed, f"llm/{ENGINE_NAME}"}
    stage = StageRecord(name="engine", seconds=record.seconds, peak_rss_mib=round(peak_rss_mib(), 1), cached=False)
    changes: dict[str, Any] = {
        "engine": manifest_record(record),
        "files": tuple(file for file in file_records(bundle.directory, known) if file.path in listed),
        "stages": (*without.stages, stage),
        "versions": {**without.versions, record.backend: record.version},
    }
    return without.model_copy(update=changes)
