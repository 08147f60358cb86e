"""The stages of ``edgellm surgery``: read, rewrite, compare, publish."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from edgellm_core.bundle.locking import locked
from edgellm_core.errors import one_line
from edgellm_core.events import Listener, ignore_events, stage_events
from edgellm_core.pipeline.foreign.errors import InvalidResultError, NoSurgeryForTargetError
from edgellm_core.targets import find_target, load_class

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import onnx

    from edgellm_core.contract import ImportedForm, Table, Target
    from edgellm_core.pipeline.foreign.comparison import CheckResult
    from edgellm_core.pipeline.foreign.reading import ForeignGraph
    from edgellm_core.pipeline.foreign.rewriting import RuleRow

Check = Literal["on", "off"]


@dataclass(frozen=True, kw_only=True)
class SurgeryResult:
    """What surgery did to a file.

    Attributes:
        out: the new file.
        opset_before: opset of the input.
        opset_after: opset of the output.
        operators_before: how often each operator occurs in the input, functions expanded.
        operators_after: the same of the output.
        rules: what each rule did.
        check: the comparison, or None where it was skipped.
    """

    out: Path
    opset_before: int
    opset_after: int
    operators_before: Mapping[str, int]
    operators_after: Mapping[str, int]
    rules: Sequence[RuleRow]
    check: CheckResult | None

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self) | {"out": str(self.out)}


@dataclass(frozen=True, kw_only=True)
class SurgerySettings:
    """What the user chooses.

    Attributes:
        target: what the semantic operators become.
        check: ``on`` compares both files on random inputs in ONNX Runtime.
        dims: sizes of symbolic dimensions in the comparison; the others are chosen.
        force: replace an existing file.
        wait: wait for another process that writes the same file, instead of refusing.
        plugin_paths: folders with further plugins, which may bring targets.
    """

    target: str = "onnx"
    check: Check = "on"
    dims: Mapping[str, int] = field(default_factory=dict)
    force: bool = False
    wait: bool = True
    plugin_paths: Sequence[Path] = ()


def simplify_onnx(
    path: Path, out: Path, settings: SurgerySettings, *, listener: Listener = ignore_events
) -> SurgeryResult:
    """Rewrite an ONNX file of any exporter in standard operators.

    Args:
        path: the file; it is not changed.
        out: the new file; its weights stay in the data files of ``path``, which are copied to another folder.
        settings: what the user chose.
        listener: receives the events.

    Raises:
        EdgellmError: the file can't be read or rewritten, or the result differs; nothing is written.
    """
    from edgellm_core.pipeline.foreign.comparison import Comparison
    from edgellm_core.pipeline.foreign.reading import read_graph
    from edgellm_core.pipeline.foreign.writing import refuse_output, staged

    target = _find_target(settings.target, settings.plugin_paths)
    refuse_output(path, out, force=settings.force)
    with stage_events("read", listener) as report:
        foreign = read_graph(path)
        report.note(f"{len(foreign.parameters)} of {len(foreign.initializers)} initializers stay unread.")
    with stage_events("surgery", listener):
        model, form, tables, result = _operate(foreign, target)
    comparing = settings.check == "on"
    with (
        locked(out, wait=settings.wait, listener=listener),
        stage_events("check" if comparing else "write", listener) as report,
        staged(model, foreign, out, tables, force=settings.force) as work,
    ):
        refuse_output(path, out, force=settings.force)
        _refuse_invalid(work.model)
        applied = [row.rule for row in result["rules"] if row.applied]
        comparison = Comparison(foreign, work, form, settings.dims, applied, report)
        checked = load_class(target.imported_check)(comparison) if comparing else None
    return SurgeryResult(out=out, check=checked, **result)


def _find_target(name: str, plugin_paths: Sequence[Path]) -> Target:
    from edgellm_core.host import PluginHost

    target = find_target(name, PluginHost.load(plugin_paths).targets())
    if not target.takes_imported:
        raise NoSurgeryForTargetError(name)
    return target


def _operate(
    foreign: ForeignGraph, target: Target
) -> tuple[onnx.ModelProto, ImportedForm, Mapping[str, Table], dict[str, Any]]:
    """Return the rewritten graph, what the target said of it, the tables beside it, and what was done."""
    from edgellm_core.pipeline.foreign.preparing import import_prepared, prepare
    from edgellm_core.pipeline.foreign.rewriting import rewrite
    from edgellm_core.pipeline.foreign.writing import finished_model
    from edgellm_core.surgery.opset import opset_of
    from edgellm_core.surgery.run import operator_counts

    prepared = prepare(foreign, target.opset)
    graph = import_prepared(prepared, foreign)
    before = operator_counts(graph)
    form, tables, rules = rewrite(graph, target, opset_of(prepared))
    model = finished_model(graph, foreign, prepared, keeps_interface=form.keeps_interface)
    return (
        model,
        form,
        tables,
        {
            "opset_before": opset_of(foreign.model),
            "opset_after": opset_of(model),
            "operators_before": before,
            "operators_after": operator_counts(graph),
            "rules": rules,
        },
    )


def _refuse_invalid(path: Path) -> None:
    """Refuse a file that ONNX's own checker refuses."""
    import onnx

    try:
        onnx.checker.check_model(path)
    except onnx.checker.ValidationError as error:
        raise InvalidResultError(one_line(error)) from error
