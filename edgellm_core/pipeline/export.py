"""The stages trace, surgery and bind: from a checkpoint to a bound ONNX graph in a folder."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.pipeline.fingerprint import code_digest, digest_of
from edgellm_core.pipeline.quantized import quantized_model, remaining_dimensions
from edgellm_core.pipeline.template import make_template, template_key
from edgellm_core.pipeline.trace_cache import store_template
from edgellm_core.settings import ELEMENT_TYPES
from edgellm_core.targets import load_class

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import onnx

    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.contract import Table, Target
    from edgellm_core.events import Reporter
    from edgellm_core.host import PluginHost, Selection
    from edgellm_core.pipeline.settings import BuildSettings
    from edgellm_core.pipeline.workspace import StageRunner, Workspace
    from edgellm_core.quantization.model import QuantizedModel
    from edgellm_core.surgery.run import RuleResult
    from edgellm_core.tracing.template import Reread, Template
    from edgellm_core.weights.joined import Joins
    from edgellm_core.weights.recipe import Recipe

MODEL_FILE: Final = "model.onnx"
DATA_FILE: Final = "model.onnx.data"


@dataclass(frozen=True, kw_only=True)
class LoweredGraph:
    """A graph in the target's operators, without weights.

    Attributes:
        model: the graph; its parameters are names without a value.
        rules: what each rule did.
        quantized: what of it is quantized.
        recipes: how the initializers of that are made.
        joins: initializers that are joined of parameters.
        tables: parameters that lie in files of their own beside the graph, by path.
        target: what it was lowered for.
        operators_before: operators of the stamped graph.
        operators_after: operators of the lowered graph.
    """

    model: onnx.ModelProto
    rules: Sequence[RuleResult]
    quantized: QuantizedModel
    recipes: Sequence[Recipe]
    joins: Joins
    tables: Mapping[str, Table]
    target: Target
    operators_before: dict[str, int]
    operators_after: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Export:
    """A bound graph on disk.

    Attributes:
        model_path: ``model.onnx``; its data lies beside it.
        graph: how it was lowered.
        fingerprint: changes with anything that the files depend on.
        digests: sha256 of files that were digested while they were written, by path in the bundle.
        reread: where transformers' ``generate`` drops its cache; None where it never does.
        left_out: what of the checkpoint is not in the graph, as fields of the manifest's records.
    """

    model_path: Path
    graph: LoweredGraph
    fingerprint: str
    digests: dict[str, str]
    reread: Reread | None
    left_out: Sequence[Mapping[str, Any]] = ()


def export_graph(
    checkpoint: Checkpoint,
    selection: Selection,
    target: Target,
    settings: BuildSettings,
    *,
    host: PluginHost,
    workspace: Workspace,
    runner: StageRunner,
) -> Export:
    """Run trace, surgery and bind, using what the caches hold.

    Raises:
        EdgellmError: the model can't be exported; one class per cause.
    """
    from edgellm_core.weights.left_out import LeftOut

    precision = settings.compute_precision
    key = template_key(checkpoint, selection, precision, full_depth=settings.full_depth)
    template = _trace_stage(key, checkpoint, selection, settings, host, runner)
    lowered: LoweredGraph = runner.run(
        "surgery", lambda _report: lower(template, checkpoint, selection, target, host, precision)
    )
    fingerprint = digest_of(checkpoint.fingerprint(), key, target.name, target.attention_scores, code_digest())
    bound: dict[str, Any] = runner.resume(
        "bind",
        workspace,
        fingerprint,
        lambda report: bind_graph(lowered, template, checkpoint, selection, workspace.llm, report),
    )
    for fields in bound["left_out"]:  # also where an earlier run bound
        runner.note("bind", str(LeftOut(**fields)))
    return Export(
        model_path=workspace.llm / MODEL_FILE,
        graph=lowered,
        fingerprint=fingerprint,
        digests={f"llm/{DATA_FILE}": bound["sha256"]},
        reread=template.reread,
        left_out=bound["left_out"],
    )


def _trace_stage(
    key: str,
    checkpoint: Checkpoint,
    selection: Selection,
    settings: BuildSettings,
    host: PluginHost,
    runner: StageRunner,
) -> Template:
    from edgellm_core.pipeline.trace_cache import cached_template

    stored = cached_template(key) if settings.use_cache else None
    if stored is not None:
        runner.cached("trace", None)
        return stored

    def body(report: Reporter) -> Template:
        return make_template(
            checkpoint,
            selection,
            settings.compute_precision,
            host=host,
            full_depth=settings.full_depth,
            report=report,
        )

    template: Template = runner.run("trace", body)
    if settings.use_cache:
        store_template(key, template)
    return template


def lower(
    template: Template,
    checkpoint: Checkpoint,
    selection: Selection,
    target: Target,
    host: PluginHost,
    precision: str,
) -> LoweredGraph:
    """Stamp a template to full depth and lower it to the target's operators.

    Args:
        template: the traced model.
        checkpoint: says what is quantized.
        selection: the family.
        target: what the graph is for.
        host: brings rules of plugins.
        precision: of everything that is not quantized.

    Raises:
        UserError: what the checkpoint quantizes does not fit the graph; one class per cause.
        NoFormError: the target does not take it.
        LeftoverOperatorsError: a semantic operator that no rule lowered.
    """
    import onnx
    import onnx_graphsurgeon as gs

    from edgellm_core.surgery.errors import LeftoverOperatorsError
    from edgellm_core.surgery.rules import core_rules
    from edgellm_core.surgery.run import leftover_operators, operator_counts, run_rules
    from edgellm_core.tracing.stamping import stamp
    from edgellm_core.weights.joined import fold_joins

    graph = stamp(template)
    before = operator_counts(graph)
    element_type = ELEMENT_TYPES[precision]
    quantized = quantized_model(graph, template, checkpoint, element_type)
    form = target.quantized(quantized)
    rules = [*core_rules(), *host.rules(), *selection.family.rules(), *form.rules, *target.rules()]
    results = run_rules(graph, rules, remaining_dimensions(template.dimensions(), quantized))
    tables = target.finish(graph)
    leftover = leftover_operators(graph, target.domains)
    if leftover:
        raise LeftoverOperatorsError(target.name, leftover)
    model = gs.export_onnx(graph)
    model.ir_version = template.model.ir_version
    del model.opset_import[:]
    versions = dict.fromkeys(sorted({node.domain or "" for node in graph.nodes}), 1) | {"": target.opset}
    model.opset_import.extend(onnx.helper.make_opsetid(*item) for item in versions.items())
    joins = fold_joins(model, {name: spec.shape for name, spec in template.stamped_parameters().items()})
    return LoweredGraph(
        model=model,
        rules=results,
        quantized=quantized,
        recipes=form.recipes,
        joins=joins,
        tables=tables,
        target=target,
        operators_before=before,
        operators_after=operator_counts(graph),
    )


def bind_graph(
    lowered: LoweredGraph,
    template: Template,
    checkpoint: Checkpoint,
    selection: Selection,
    folder: Path,
    report: Reporter,
) -> dict[str, Any]:
    """Stream the weights beside the graph and write both, with the configs that a runtime needs.

    Returns:
        ``sha256`` of the data file, and ``left_out``: what of the checkpoint is not in the graph.

    Raises:
        EdgellmError: a tensor is missing, unexpected, malformed or out of range.
    """
    from edgellm_core.pipeline.tensor_plan import plan_tensors
    from edgellm_core.weights.binder import bind
    from edgellm_core.weights.copies import require_equal_ties
    from edgellm_core.weights.external_data import attach
    from edgellm_core.weights.tables import write_table

    model = lowered.model
    plan = plan_tensors(lowered, template, checkpoint, selection.family)
    require_equal_ties(checkpoint.tensors, plan.tied)
    for file, recipe in plan.tables.items():
        write_table(recipe, checkpoint.tensors, folder / file, report)
    bound = bind(plan.recipes, checkpoint.tensors, folder / DATA_FILE, report=report)
    attach(model, plan.recipes, bound.layout, location=DATA_FILE)
    (folder / MODEL_FILE).write_bytes(model.SerializeToString())
    write_side_files(lowered, checkpoint, selection, folder, report)
    return {"sha256": bound.sha256, "left_out": [asdict(group) for group in plan.left_out]}


def write_side_files(
    lowered: LoweredGraph, checkpoint: Checkpoint, selection: Selection, folder: Path, report: Reporter
) -> None:
    """Write the files beside a graph that need no weights, and let the target check what its runtime makes of them.

    Raises:
        EdgellmError: the runtime can't be told what it needs to know.
    """
    target, family = lowered.target, selection.family
    write_configs(checkpoint, folder)
    target.write_files(lowered.model, checkpoint, family, folder)
    if target.files_check:
        for note in load_class(target.files_check)(folder, checkpoint, family):
            report.note(note)


def write_configs(checkpoint: Checkpoint, folder: Path) -> None:
    """Copy config and generation config."""
    for path in (checkpoint.directory / name for name in ("config.json", "generation_config.json")):
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
