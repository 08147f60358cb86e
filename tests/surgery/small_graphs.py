"""ONNX graphs of a few nodes: written out, changed by rules, executed."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
from onnx import helper, numpy_helper

from edgellm_core.contract import GraphDimensions
from edgellm_core.surgery.run import run_rules
from edgellm_core.tracing.graph_import import import_graph

DOMAIN = "edgellm"
NOTHING = GraphDimensions(layers=0, attentions=0)


def node(op, inputs, outputs, *, domain="", name=None, **attributes):
    """A node; inputs and outputs are written ``"a b"``, ``_`` for a missing one."""
    names = ["" if value == "_" else value for value in inputs.split()]
    results = outputs.split()
    return helper.make_node(op, names, results, name=name or f"{op}:{results[0]}", domain=domain, **attributes)


def semantic(op, inputs, outputs, **attributes):
    return node(op, inputs, outputs, domain=DOMAIN, **attributes)


def value(name, dtype, shape):
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)


def model_of(nodes, inputs, outputs, constants=None, values=()):
    """A model; inputs and outputs are ``name → (dtype, shape)``, constants ``name → array``."""
    graph = helper.make_graph(
        list(nodes),
        "small",
        [value(name, *kind) for name, kind in inputs.items()],
        [value(name, *kind) for name, kind in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
        value_info=[value(*item) for item in values],
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=11)


def apply(model, *rules, dimensions=NOTHING):
    """Run rules, and run them again to see that nothing is left to do.

    Returns:
        The changed model and the results of the first run.
    """
    graph = import_graph(model)
    results = run_rules(graph, rules, dimensions)
    changed = export(graph)
    again = run_rules(graph, [Unbounded(rule) for rule in rules], dimensions)
    assert [result.applied for result in again] == [0] * len(rules), "a second run changed the graph"
    assert [output.name for output in changed.graph.output] == [output.name for output in model.graph.output]
    assert [value.name for value in changed.graph.input] == [value.name for value in model.graph.input]
    if all(output.type.tensor_type.HasField("shape") for output in changed.graph.output):
        onnx.checker.check_model(changed)  # demands the shapes
    return changed, results


def export(graph):
    model = gs.export_onnx(graph)
    model.ir_version = 11
    del model.opset_import[:]
    domains = {item.domain or "" for item in model.graph.node} | {""}
    model.opset_import.extend(helper.make_opsetid(domain, 1 if domain else 23) for domain in sorted(domains))
    return model


class Unbounded:
    """A rule without its expectation."""

    def __init__(self, rule):
        from edgellm_core.surgery.rule import Expected

        self.name, self.stage, self.match, self.rewrite = rule.name, rule.stage, rule.match, rule.rewrite
        self.expected = lambda _dimensions: Expected()


def execute(model, **feeds):
    """Run a model of standard operators on ONNX Runtime, its own optimizations off."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def operators(model):
    return [item.op_type for item in model.graph.node]
