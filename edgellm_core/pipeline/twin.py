"""The stage ``twin``: long lengths are proved on a small model that goes through trace, surgery and bind too."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.bundle.manifest import ThresholdRecord, TwinRecord
from edgellm_core.errors import EdgellmError
from edgellm_core.events import Reporter, ignore_events
from edgellm_core.memory import collected_soon
from edgellm_core.pipeline.fingerprint import VERIFICATION_PACKAGES, digest_of, installed_versions
from edgellm_core.pipeline.trace_cache import trace_key
from edgellm_core.settings import cache_directory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx
    from transformers import PreTrainedModel

    from edgellm_core.bundle.manifest import AnswersRecord
    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.host import PluginHost, Selection
    from edgellm_core.pipeline.workspace import StageRunner
    from edgellm_core.tracing.template import Reread
    from edgellm_core.verification.twin.lengths import Edge
    from edgellm_core.verification.twin.make import Twin

PRECISION: Final = "fp32"
"""Of a twin, whatever the build's: what depends on lengths does not depend on types, which the gate compares."""


def twin_stage(
    checkpoint: Checkpoint,
    selection: Selection,
    *,
    host: PluginHost,
    runner: StageRunner,
    one_token: bool,
    use_cache: bool,
) -> dict[str, Any]:
    """Prove the long lengths of a model, or take an earlier proof of a model with the same config.

    Args:
        checkpoint: the model.
        selection: its family.
        host: brings rules of plugins.
        runner: runs the stage.
        one_token: its graph takes one token a step.
        use_cache: whether earlier proofs count.

    Returns:
        Fields of :class:`TwinRecord`.

    Raises:
        EdgellmError: the twin's graph differs, or can't be made.
    """
    stored = stored_proof(checkpoint, selection) if use_cache else None
    if stored is not None:
        runner.cached("twin", stored)
        return stored.model_dump()
    found: TwinRecord = runner.run(
        "twin", lambda report: proof(checkpoint, selection, host, report, one_token=one_token)
    )
    return found.model_dump()


def proof(
    checkpoint: Checkpoint, selection: Selection, host: PluginHost, report: Reporter, *, one_token: bool
) -> TwinRecord:
    """Prove the long lengths of a model and store that for models with the same config; see :func:`prove_lengths`."""
    with collected_soon():
        record = prove_lengths(
            checkpoint.directory,
            checkpoint.config,
            selection,
            host,
            report,
            trust_remote_code=checkpoint.trust_remote_code,
            one_token=one_token,
        )
    path = _file(twin_key(checkpoint.config, selection, own_code=checkpoint.code_digest()))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".new-", delete=False, encoding="utf-8") as stream:
        stream.write(record.model_dump_json())
    Path(stream.name).replace(path)
    return record


def stored_proof(checkpoint: Checkpoint, selection: Selection) -> TwinRecord | None:
    """Return an earlier proof of a model with the same config, or None."""
    path = _file(twin_key(checkpoint.config, selection, own_code=checkpoint.code_digest()))
    try:
        return TwinRecord.model_validate_json(path.read_text(encoding="utf-8"), strict=True)
    except (OSError, ValueError):  # none yet, or one that a crash cut short
        return None


def twin_key(config: Mapping[str, Any], selection: Selection, *, own_code: str = "") -> str:
    """Return the key of a proof: over config.json, versions, plugin and code."""
    traced = trace_key(config, (), selection, PRECISION, full_depth=False, own_code=own_code)
    return digest_of(traced, installed_versions(VERIFICATION_PACKAGES))


def prove_lengths(
    directory: Path,
    config: Mapping[str, Any],
    selection: Selection,
    host: PluginHost,
    report: Reporter,
    *,
    trust_remote_code: bool = False,
    one_token: bool = False,
) -> TwinRecord:
    """Compare a twin's graph with its original on both sides of every length where the model's behaviour changes.

    Args:
        directory: folder of the model's config.json, for messages and its own code.
        config: contents of config.json. Nothing else of the model is read.
        selection: its family.
        host: brings rules of plugins.
        report: told what is run, and where no small model can be made.
        trust_remote_code: run the modeling code that the checkpoint brings itself.
        one_token: its graph is known to take one token a step.

    Raises:
        TwinDiffersError: the graph differs from the original.
        TwinNotExportedError: the twin can't be exported.
        EdgellmError: transformers can't read the config; one class per cause.
    """
    from edgellm_core.tracing.configuration import load_config
    from edgellm_core.tracing.modeling_code import quiet_libraries
    from edgellm_core.verification.rounding_noise import FACTOR
    from edgellm_core.verification.twin.compare import TOLERANCE, GraphRunner, compare
    from edgellm_core.verification.twin.errors import TwinNotMadeError
    from edgellm_core.verification.twin.lengths import plan_lengths
    from edgellm_core.verification.twin.make import make_twin, one_thread

    family = selection.family
    loaded = load_config(directory, config, family, host.nearest, trust_remote_code=trust_remote_code)
    with tempfile.TemporaryDirectory(prefix="edgellm-twin-") as name, quiet_libraries():
        code = directory if trust_remote_code else None
        try:
            twin = make_twin(loaded, family.prepare_config, config, Path(name, "checkpoint"), code=code)
            graph, reread, one_token = export_twin(
                twin, Path(name, "graph"), selection, host, trust_remote_code=trust_remote_code, one_token=one_token
            )
            cases = plan_lengths(twin.edges, vocabulary=twin.vocabulary, one_token=one_token)
            longest = max(sum(case.chunks) for case in cases)
            with one_thread():
                model = twin.original()
                found = compare(GraphRunner(graph), model, cases, twin.edges)
                answers = _answers(graph, model, twin.edges, reread, longest, Path(name, "settings"), report)
        except TwinNotMadeError as unmade:
            report.note(str(unmade))
            return TwinRecord(thresholds=(), longest=0, reason=unmade.reason)
    if twin.edges:
        report.note(f"Compared on both sides of {', '.join(map(str, twin.edges))}.")
    if found.tolerance > TOLERANCE:
        report.note(
            f"The twin's original moves by {found.tolerance / FACTOR:.2g} when it rounds otherwise, so its graph was "
            f"compared to within {found.tolerance:.2g}."
        )
    thresholds = tuple(map(_threshold, twin.edges))
    return TwinRecord(thresholds=thresholds, longest=longest, max_rel_err=found.error, answers=answers)


def _answers(  # what is compared, and where
    graph: Path,
    model: PreTrainedModel,
    edges: Sequence[Edge],
    reread: Reread | None,
    longest: int,
    scratch: Path,
    report: Reporter,
) -> AnswersRecord | None:
    """Compare a twin's answers with those of ``generate``, where the model's own works."""
    from edgellm_core.verification.errors import OriginalGenerationError
    from edgellm_core.verification.twin.answers import compare_answers

    at = reread.at if reread else None
    try:
        return compare_answers(graph, model, edges, reread_at=at, longest=longest, scratch=scratch)
    except OriginalGenerationError as broken:
        report.note(f"Answers across these lengths were not compared: {broken.reason}.")
        return None


def _threshold(edge: Edge) -> ThresholdRecord:
    return ThresholdRecord(
        name=edge.threshold.name, value=edge.threshold.value, run_as=edge.length, lengths=edge.lengths
    )


def export_twin(
    twin: Twin,
    folder: Path,
    selection: Selection,
    host: PluginHost,
    *,
    trust_remote_code: bool = False,
    one_token: bool = False,
) -> tuple[Path, Reread | None, bool]:
    """Trace, lower and bind a twin as a build does its model, for target ``onnx`` in float32.

    Args:
        twin: the twin.
        folder: folder to create for the graph.
        selection: the family.
        host: brings rules of plugins.
        trust_remote_code: run the modeling code that lies beside the twin.
        one_token: the graph is known to take one token a step.

    Returns:
        The graph's file, where ``generate`` of the twin drops its cache, and whether it takes one token a step.

    Raises:
        TwinNotExportedError: it can't be exported.
    """
    from edgellm_core.checkpoint.location import Location
    from edgellm_core.checkpoint.source import open_directory
    from edgellm_core.pipeline.export import MODEL_FILE, bind_graph, lower
    from edgellm_core.targets.onnx import OnnxTarget
    from edgellm_core.tracing.trace import trace
    from edgellm_core.verification.twin.errors import TwinNotExportedError

    location = Location(kind="directory", id=str(twin.directory), path=twin.directory)
    quiet, family = Reporter("twin", ignore_events), selection.family
    folder.mkdir()
    try:
        checkpoint = open_directory(twin.directory, location, trust_remote_code=trust_remote_code)
        names = list(checkpoint.tensors)
        template = trace(
            twin.config, family, PRECISION, full_depth=False, report=quiet, tensor_names=names, one_token=one_token
        )
        lowered = lower(template, checkpoint, selection, OnnxTarget(), host, PRECISION)
        bind_graph(lowered, template, checkpoint, selection, folder, quiet)
    except EdgellmError as error:
        raise TwinNotExportedError(twin.edges, str(error)) from error
    return folder / MODEL_FILE, template.reread, takes_one_token(lowered.model)


def takes_one_token(model: onnx.ModelProto) -> bool:
    """Return whether a graph takes one token a step."""
    ids = [value for value in model.graph.input if value.name == "input_ids"]
    return any(value.type.tensor_type.shape.dim[1].dim_value == 1 for value in ids)


def _file(key: str) -> Path:
    return cache_directory() / "twins" / f"{key}.json"
