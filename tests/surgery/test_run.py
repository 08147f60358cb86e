"""Running rules: order, counts, near misses, and the errors that keep a wrong graph from being exported."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from small_graphs import NOTHING, apply, execute, export, model_of, node, operators, semantic

from edgellm_core.errors import EdgellmError
from edgellm_core.surgery.errors import (
    DisorderedGraphError,
    DuplicateTensorError,
    LeftoverOperatorsError,
    RuleCountError,
)
from edgellm_core.surgery.rule import Expected, NearMiss, Rule
from edgellm_core.surgery.run import leftover_operators, operator_counts, refuse_duplicate_names, run_rules
from edgellm_core.tracing.graph_import import import_graph

F = np.float32
X = {"x": (F, [2])}


class NegToAbs(Rule):
    """``Neg(x)`` → ``Abs(x)``, but not of graph inputs."""

    def __init__(self, expected=None):
        self._expected = expected or Expected()

    def expected(self, dimensions):
        return self._expected

    def match(self, node, graph):
        if node.op != "Neg":
            return False
        return True if node.inputs[0].inputs else NearMiss(node.name, "it negates a graph input")

    def rewrite(self, node, edit):
        edit.node("Abs", node.inputs, node.outputs[0], name=f"{node.name}/abs")


class AbsToRelu(NegToAbs):
    """``Abs(x)`` → ``Relu(x)``."""

    def match(self, node, graph):
        return node.op == "Abs"

    def rewrite(self, node, edit):
        edit.node("Relu", node.inputs, node.outputs[0], name=f"{node.name}/relu")


class EarlyAbsToRelu(AbsToRelu):
    stage = "clean"


class AddOne(Rule):
    """``Neg(x)`` → ``Sub(c, x)``, the constant through the editor."""

    op = "Neg"

    def match(self, node, graph):
        return node.op == self.op

    def rewrite(self, node, edit):
        edit.node("Sub", [edit.constant(1.0, F), node.inputs[0]], node.outputs[0], name=f"{node.name}/sub")


class AddOneToAbs(AddOne):
    op = "Abs"


def negations(count=3):
    nodes = [node("Neg", "x", "n0")]
    nodes += [node("Neg", f"n{index}", f"n{index + 1}") for index in range(count)]
    return model_of(nodes, X, {f"n{count}": (F, [2])})


def test_a_rule_applies_everywhere_and_is_reported():
    changed, [result] = apply(negations(), NegToAbs(Expected.exactly(3)))
    assert operators(changed) == ["Neg", "Abs", "Abs", "Abs"]
    assert (result.rule, str(result.expected), result.applied) == ("NegToAbs", "3", 3)
    assert result.near_miss == NearMiss("Neg:n0", "it negates a graph input")


def test_a_wrong_count_names_rule_expectation_and_near_miss():
    expected = (
        r"Rule NegToAbs must apply 4 times to this model; it applied 3 times\. "
        r"First near miss: 'Neg:n0', it negates a graph input\."
    )
    with pytest.raises(RuleCountError, match=expected) as caught:
        run_rules(import_graph(negations()), [NegToAbs(Expected.exactly(4))], NOTHING)
    assert isinstance(caught.value, EdgellmError)


@pytest.mark.parametrize("expected", [Expected(4), Expected(0, 2), Expected.exactly(0)], ids=str)
def test_a_count_outside_the_range_is_an_error(expected):
    with pytest.raises(RuleCountError, match=rf"must apply {expected} times .* applied 3 times"):
        run_rules(import_graph(negations()), [NegToAbs(expected)], NOTHING)


def test_without_a_near_miss_none_is_named():
    with pytest.raises(RuleCountError, match=r"it applied 0 times\. The traced graph"):
        run_rules(import_graph(negations()), [AbsToRelu(Expected.exactly(1))], NOTHING)


def test_rules_run_in_order_and_stages_before_that():
    late, _results = apply(negations(), NegToAbs(), AbsToRelu())
    assert operators(late) == ["Neg", "Relu", "Relu", "Relu"]
    graph = import_graph(negations())
    results = run_rules(graph, [NegToAbs(), EarlyAbsToRelu()], NOTHING)
    assert [(result.rule, result.applied) for result in results] == [("EarlyAbsToRelu", 0), ("NegToAbs", 3)]


def test_rules_share_constants():
    nodes = [node("Neg", "x", "a"), node("Abs", "x", "b"), node("Add", "a b", "y")]
    changed, _results = apply(model_of(nodes, X, {"y": (F, [2])}), AddOne(), AddOneToAbs())
    assert len(changed.graph.initializer) == 1
    np.testing.assert_array_equal(execute(changed, x=np.array([3, 4], F))[0], [-4, -6])


def test_the_order_of_outputs_is_kept():
    nodes = [node("Neg", "x", "a"), node("Neg", "a", "late"), node("Neg", "late", "early")]
    outputs = {"early": (F, [2]), "late": (F, [2])}
    changed, _results = apply(model_of(nodes, X, outputs), NegToAbs())
    assert [output.name for output in changed.graph.output] == ["early", "late"]


def test_two_tensors_of_one_name_are_refused():
    graph = import_graph(negations())
    graph.nodes[2].outputs[0].name = "n1"
    with pytest.raises(DuplicateTensorError, match=r"both named 'n1'"):
        run_rules(graph, [], NOTHING)


def test_a_rule_that_makes_a_name_twice_is_refused():
    class Twice(NegToAbs):
        def rewrite(self, node, edit):
            new = edit.node("Abs", node.inputs, "new", name=f"{node.name}/abs", like=node.inputs[0])
            edit.node("Neg", [new], node.outputs[0], name=node.name)

    graph = import_graph(negations(2))
    with pytest.raises(DuplicateTensorError, match="'new'"):
        run_rules(graph, [Twice()], NOTHING)


def test_a_tensor_may_have_many_consumers():
    graph = import_graph(model_of([node("Add", "x x", "a"), node("Mul", "a x", "y")], X, {"y": (F, [2])}))
    refuse_duplicate_names(graph)


def test_operators_are_counted_most_frequent_first():
    nodes = [node("Neg", "x", "a"), node("Neg", "a", "b"), semantic("Norm", "b", "c"), node("Abs", "c", "y")]
    graph = import_graph(model_of(nodes, X, {"y": (F, [2])}))
    assert list(operator_counts(graph).items()) == [("Neg", 2), ("Abs", 1), ("edgellm::Norm", 1)]


def test_operators_outside_the_domains_are_left_over():
    nodes = [semantic("B", "x", "a"), semantic("A", "a", "b"), semantic("A", "b", "c"), node("Abs", "c", "y")]
    graph = import_graph(model_of(nodes, X, {"y": (F, [2])}))
    assert leftover_operators(graph) == ["edgellm::A", "edgellm::B"]
    assert leftover_operators(graph, ("", "edgellm")) == []
    with pytest.raises(LeftoverOperatorsError, match=r"Target 'onnx' has no form of edgellm::A, edgellm::B\."):
        raise LeftoverOperatorsError("onnx", leftover_operators(graph))


def test_unused_nodes_are_dropped_and_inputs_kept():
    nodes = [node("Neg", "x", "a"), node("Neg", "a", "y"), node("Exp", "a", "unused")]
    model = model_of(nodes, {**X, "idle": (F, [2])}, {"y": (F, [2])})
    changed, _results = apply(model, NegToAbs())
    assert operators(changed) == ["Neg", "Abs"]
    assert [value.name for value in changed.graph.input] == ["x", "idle"]


def test_parameters_without_data_stay_names():
    """Weights are variables that nothing produces; the exported graph only names them."""
    graph = import_graph(negations(1))
    graph.nodes[1].inputs[0] = gs.Variable("weight", F, [2])
    run_rules(graph, [AbsToRelu()], NOTHING)
    model = export(graph)
    assert model.graph.node[-1].input[0] == "weight"
    assert not model.graph.initializer
    assert [value.name for value in model.graph.input] == ["x"]


class MakesUseTooEarly(Rule):
    """``Relu(x)`` → a shared value made from ``x``, which a later node produces."""

    def match(self, node, graph):
        return node.op == "Relu"

    def rewrite(self, node, edit):
        shared = edit.shared("early", lambda: edit.node("Neg", [node.inputs[0]], "early", name="early"))
        edit.node("Neg", [shared], node.outputs[0], name="late")


def test_shared_value_made_from_a_later_one_is_refused():
    x, y, z = (gs.Variable(name, np.float32, [2]) for name in "xyz")
    graph = gs.Graph([gs.Node("Exp", "exp", {}, [x], [y]), gs.Node("Relu", "relu", {}, [y], [z])], [x], [z])
    with pytest.raises(DisorderedGraphError, match=r"Node 'early' must come after the node that makes its input 'y'"):
        run_rules(graph, [MakesUseTooEarly()], NOTHING)
