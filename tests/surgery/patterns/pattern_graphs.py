"""Graphs in plain operators, rewritten and executed."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from small_graphs import Unbounded, apply, execute, model_of, node, operators

from edgellm_core.targets import find_target


def lines(text):
    """Nodes written one a line: ``result = Op(input, …) attribute=value``."""
    made = []
    for line in filter(None, map(str.strip, text.strip().splitlines())):
        results, call = (part.strip() for part in line.split("=", 1))
        op, _, rest = call.partition("(")
        inputs, _, given = rest.partition(")")
        attributes = dict(item.split("=", 1) for item in given.split())
        made.append(
            node(
                op,
                inputs.replace(",", " "),
                results.replace(",", " "),
                **{key: eval(value) for key, value in attributes.items()},  # written in the tests
            )
        )
    return made


def graph(text, inputs, outputs, constants):
    """A model with shapes inferred; outputs are ``name → dtype``, their shapes follow."""
    model = model_of(lines(text), inputs, {name: (dtype, None) for name, dtype in outputs.items()}, constants)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def rewritten(model, *rules):
    """Run pattern rules and the target's lowering rules; return the model, its operators and the rules' results."""
    lowering = [Unbounded(rule) for rule in find_target("onnx", {}).imported(gs.Graph()).rules]
    changed, results = apply(model, *rules, *lowering)
    return changed, operators(changed), results[: len(rules)]


def assert_same(model, changed, reference, tolerance=2e-6, **feeds):
    """Compare both models with a reference written out in numpy."""
    for candidate in (model, changed):
        result = execute(candidate, **feeds)[0]
        np.testing.assert_allclose(result.astype(np.float64), reference, rtol=0, atol=tolerance)


def numbers(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
