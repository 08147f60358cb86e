"""Running rules over a graph, with their counts checked and reported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgellm_core.surgery.errors import DisorderedGraphError, DuplicateTensorError, RuleCountError
from edgellm_core.surgery.rule import STAGES, Editor, Expected, NearMiss, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import onnx_graphsurgeon as gs

    from edgellm_core.contract import GraphDimensions


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleResult:
    """What one rule did.

    Attributes:
        rule: its name.
        expected: how often it had to apply.
        applied: how often it did.
        near_misses: the nodes that almost matched.
    """

    rule: str
    expected: Expected
    applied: int
    near_misses: tuple[NearMiss, ...] = ()

    @property
    def near_miss(self) -> NearMiss | None:
        """The first node that almost matched."""
        return self.near_misses[0] if self.near_misses else None


def run_rules(graph: gs.Graph, rules: Iterable[Rule], dimensions: GraphDimensions) -> list[RuleResult]:
    """Run rules stage by stage, in order.

    Args:
        graph: changed in place; topologically sorted before and after.
        rules: the rules of the core, the family and the target.
        dimensions: what the model says its graph contains.

    Raises:
        RuleCountError: a rule applied more or less often than the model demands.
        DuplicateTensorError: two different tensors have one name, which would export wrong values.
        DisorderedGraphError: a rule added a node before one that it depends on.
    """
    ordered = sorted(rules, key=lambda rule: STAGES.index(rule.stage))
    results = [_run_rule(graph, rule, dimensions) for rule in ordered]
    graph.cleanup()  # once for all rules: cleanup and toposort take most of the time of surgery
    refuse_duplicate_names(graph)
    refuse_disorder(graph)
    return results


def _run_rule(graph: gs.Graph, rule: Rule, dimensions: GraphDimensions) -> RuleResult:
    editor = Editor(graph)
    kept: list[gs.Node] = []
    applied = 0
    near_misses: list[NearMiss] = []
    for node in list(graph.nodes):
        verdict = rule.match(node, graph)
        if verdict is not True:
            near_misses += [verdict] if isinstance(verdict, NearMiss) else []
            kept.append(node)
            continue
        editor.added.clear()
        rule.rewrite(node, editor)
        kept.extend(editor.added)
        node.inputs.clear()
        node.outputs.clear()
        applied += 1
    if applied:
        graph.nodes.clear()
        graph.nodes.extend([*editor.shared_nodes, *kept])
    expected = rule.expected(dimensions)
    if applied not in expected:
        raise RuleCountError(rule.name, str(expected), applied, near_misses[0] if near_misses else None)
    return RuleResult(rule=rule.name, expected=expected, applied=applied, near_misses=tuple(near_misses))


def refuse_duplicate_names(graph: gs.Graph) -> None:
    """Refuse two different tensors of one name.

    Raises:
        DuplicateTensorError: naming it.
    """
    seen: dict[str, gs.Tensor] = {}
    tensors: list[gs.Tensor] = [*graph.inputs]
    for node in graph.nodes:
        tensors += [*node.inputs, *node.outputs]
    for tensor in tensors:
        if tensor.name and seen.setdefault(tensor.name, tensor) is not tensor:
            raise DuplicateTensorError(tensor.name)


def refuse_disorder(graph: gs.Graph) -> None:
    """Refuse a graph whose nodes are not in topological order; ONNX Runtime and TensorRT would not notice.

    Raises:
        DisorderedGraphError: naming the first node that comes too early.
    """
    made: set[int] = set()
    for node in graph.nodes:
        for tensor in node.inputs:
            if tensor.inputs and id(tensor) not in made:
                raise DisorderedGraphError(node.name, tensor.name)
        made.update(id(tensor) for tensor in node.outputs)


def operator_counts(graph: gs.Graph) -> dict[str, int]:
    """Return how often each operator occurs, most frequent first; other domains are written ``domain::Op``."""
    counts: dict[str, int] = {}
    for node in graph.nodes:
        name = f"{node.domain}::{node.op}" if node.domain else node.op
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def leftover_operators(graph: gs.Graph, domains: Sequence[str] = ("", "ai.onnx")) -> list[str]:
    """Return the names of operators outside the given domains."""
    return sorted({f"{node.domain}::{node.op}" for node in graph.nodes if (node.domain or "") not in domains})
