"""Gives an existing bundle an engine, or a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgellm_core.engine.builder import EngineRecord, build_engine
from edgellm_core.engine.profiles import limits_for_context
from edgellm_core.events import peak_rss_mib
from edgellm_core.runtime.errors import OtherTargetError
from edgellm_core.runtime.text import context_length
from edgellm_core.runtime.tokenizer import read_json_object

if TYPE_CHECKING:
    from edgellm_core import bundle as bundles
    from edgellm_core.engine.backend import Backend
    from edgellm_core.events import Reporter

ENGINE_NAME = "llm.engine"


def add_engine(
    bundle: bundles.Bundle,
    *,
    backend: Backend,
    compute_capability: int | None,
    report: Reporter,
    max_batch_size: int | None = None,
    max_input_len: int | None = None,
    max_seq_len: int | None = None,
) -> EngineRecord:
    """Build ``llm/llm.engine`` of a bundle and write it into the manifest.

    The bundle is loadable at every moment: an old engine leaves the manifest before its file is replaced, and the new
    one enters it afterwards.

    Args:
        bundle: a loaded bundle of target ``onnx``.
        backend: package to build with.
        compute_capability: as :func:`build_engine`.
        report: as :func:`build_engine`.
        max_batch_size: as :func:`limits_for_context`, with the model's context; None for the default.
        max_input_len: likewise.
        max_seq_len: likewise.

    Raises:
        OtherTargetError: the bundle's graph is not for TensorRT's ONNX parser.
        EdgellmError: as :func:`build_engine` and :func:`limits_for_context`.
    """
    from edgellm_core.bundle import write_manifest

    if bundle.manifest.target != "onnx":
        raise OtherTargetError("edgellm engine", bundle.directory, bundle.manifest.target)
    limits = limits_for_context(
        context_length(read_json_object(bundle.llm / "config.json")),
        max_batch_size=max_batch_size,
        max_input_len=max_input_len,
        max_seq_len=max_seq_len,
    )
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
    )
    write_manifest(bundle.directory, _with_engine(bundle, without, record))
    return record


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


def _with_engine(bundle: bundles.Bundle, without: bundles.Manifest, record: EngineRecord) -> bundles.Manifest:
    from edgellm_core.bundle import StageRecord, file_records

    known = {file.path: file.sha256 for file in without.files}
    listed = {*known, f"llm/{ENGINE_NAME}"}
    stage = StageRecord(name="engine", seconds=record.seconds, peak_rss_mib=round(peak_rss_mib(), 1), cached=False)
    changes: dict[str, Any] = {
        "engine": manifest_record(record),
        "files": tuple(file for file in file_records(bundle.directory, known) if file.path in listed),
        "stages": (*without.stages, stage),
        "versions": {**without.versions, record.backend: record.version},
    }
    return without.model_copy(update=changes)
