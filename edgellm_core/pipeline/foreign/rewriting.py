"""Runs the rules over a foreign graph: tidy, find patterns, lower what they mean, tidy again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgellm_core.contract import GraphDimensions
from edgellm_core.surgery.run import operator_counts, refuse_duplicate_names, run_rules

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_graphsurgeon as gs

    from edgellm_core.contract import ImportedForm, Table, Target
    from edgellm_core.surgery.rule import NearMiss, Rule
    from edgellm_core.surgery.run import RuleResult


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleRow:
    """What one rule did to a foreign graph, in all of its runs.

    Attributes:
        rule: its name.
        applied: how often it applied.
        near_misses: nodes that almost matched in its last run, and why not.
    """

    rule: str
    applied: int
    near_misses: tuple[NearMiss, ...] = ()


def rewrite(graph: gs.Graph, target: Target, opset: int) -> tuple[ImportedForm, Mapping[str, Table], list[RuleRow]]:
    """Rewrite a graph in place.

    Args:
        graph: the graph; its parameters are names without a value.
        target: says how it takes what the patterns find.
        opset: of the graph's default domain.

    Returns:
        What the target said, its tables beside the graph, and one row for each rule.

    Raises:
        EdgellmError: a rule broke the graph, or the target can't express it.
    """
    from edgellm_core.surgery.patterns import pattern_rules, tidying_rules

    runs = _tidy(graph, tidying_rules())
    for rule in pattern_rules(opset):
        runs += run_rules(graph, [rule], _nothing())  # each leaves no needless consumers to the next
    form = target.imported(graph)  # may find further semantic operators
    runs += run_rules(graph, form.rules, _semantic_counts(graph))
    tables: Mapping[str, Table] = {}
    if not form.keeps_interface:
        tables = target.finish(graph)
        refuse_duplicate_names(graph)
    runs += _tidy(graph, tidying_rules())
    return form, tables, _rows(runs)


def _nothing() -> GraphDimensions:
    return GraphDimensions(layers=0, attentions=0)


def _tidy(graph: gs.Graph, rules: Sequence[Rule]) -> list[RuleResult]:
    """Run rules until none applies; each application removes a node, so that this ends."""
    runs: list[RuleResult] = []
    while True:
        results = run_rules(graph, rules, _nothing())
        runs += results
        if not any(result.applied for result in results):
            return runs


def _semantic_counts(graph: gs.Graph) -> GraphDimensions:
    """Return how many semantic operators there are to lower."""
    counts = operator_counts(graph)
    return GraphDimensions(
        layers=0,
        attentions=counts.get("edgellm::Attention", 0),
        norms={"rms": counts.get("edgellm::RMSNorm", 0), "layer": counts.get("edgellm::LayerNorm", 0)},
        ropes=counts.get("edgellm::Rotary", 0),
    )


def _rows(runs: Sequence[RuleResult]) -> list[RuleRow]:
    applied: Counter[str] = Counter()
    missed: dict[str, tuple[NearMiss, ...]] = {}
    for result in runs:
        applied[result.rule] += result.applied
        missed[result.rule] = result.near_misses
    return [RuleRow(rule=rule, applied=applied[rule], near_misses=missed[rule]) for rule in missed]
