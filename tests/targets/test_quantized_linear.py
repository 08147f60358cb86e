"""Quantized linear layers in Q/DQ form on ONNX Runtime, against their definition in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from small_graphs import NOTHING, model_of, semantic

from edgellm_core.checkpoint.shards import index_tensors, read_headers
from edgellm_core.errors import NoFormError
from edgellm_core.events import Reporter
from edgellm_core.quantization.formats import FP8, INT4, INT8_SQ, MXFP8, NVFP4
from edgellm_core.quantization.model import QuantizedLinear, QuantizedModel
from edgellm_core.runtime.quantized import FLOAT32_INPUTS
from edgellm_core.surgery.errors import RuleCountError
from edgellm_core.surgery.run import run_rules
from edgellm_core.targets.onnx import OnnxTarget
from edgellm_core.tracing.graph_import import import_graph
from edgellm_core.weights.binder import bind
from edgellm_core.weights.external_data import attach

OUTPUTS, INPUTS, BLOCK = 48, 64, 32
INT4_32 = replace(INT4, block_size=BLOCK)
FORMS = {
    "fp8": FP8,
    "fp8-by-channel": replace(FP8, granularity="channel"),
    "int8": INT8_SQ,
    "int8-smoothed": replace(INT8_SQ, smoothed=True),
    "int8-by-tensor": replace(INT8_SQ, granularity="tensor"),
    "int4": INT4_32,
    "int4-smoothed": replace(INT4_32, smoothed=True),
    "int4-ordered": replace(INT4_32, ordered=True),
    "uint4": replace(INT4_32, weight="uint4"),
    "uint4-ordered-smoothed": replace(INT4_32, weight="uint4", ordered=True, smoothed=True),
}


def stored_layer(form, rng):
    """Return random tensors of a layer by suffix, as they lie on disk."""
    stored = {}
    for suffix, (element_type, shape) in form.tensors(OUTPUTS, INPUTS).items():
        if suffix == "input_order":
            stored[suffix] = torch.from_numpy(rng.permutation(INPUTS))
        elif suffix == "weight_zero_point":
            stored[suffix] = torch.from_numpy(rng.integers(0, 16, shape, dtype=np.uint8))
        elif suffix == "weight" and form.weight == "fp8":
            stored[suffix] = torch.from_numpy(rng.standard_normal(shape) * 60).to(torch.float8_e4m3fn)
        elif suffix == "weight":
            limits = (-128, 128, np.int8) if element_type == "I8" else (0, 256, np.uint8)
            stored[suffix] = torch.from_numpy(rng.integers(*limits[:2], shape).astype(limits[2]))
        else:  # sixteenths of powers of two, which float16 holds
            stored[suffix] = torch.from_numpy(np.array(rng.integers(8, 32, shape) / 2**11, np.float32))
    return stored


def weight_of(form, stored):
    """Return the weight ``[out, in]`` in float64, number by number."""
    scale = stored["weight_scale"].double().numpy()
    weight = np.empty((OUTPUTS, INPUTS))
    for row in range(OUTPUTS):
        for column in range(INPUTS):
            block = column // BLOCK
            if form.weight in ("int4", "uint4"):
                code = int(stored["weight"][row // 2, column]) >> (4 * (row % 2)) & 15
                zero = int(stored["weight_zero_point"][row, block]) if form.weight == "uint4" else 0
                number = code - zero if form.weight == "uint4" else (code ^ 8) - 8
            else:
                number = float(stored["weight"][row, column])
            at = {"tensor": (), "channel": (row,), "block": (row, block)}[form.granularity]
            weight[row, column] = number * scale[at]
    return weight


def rounded_input(form, stored, x):
    """Return the input in float64 as the layer sees it, and where it is near a tie of its rounding."""
    if form.smoothed:
        x = x * stored["pre_quant_scale"].double().numpy()
    if form.ordered:
        x = x[..., stored["input_order"].numpy()]
    if form.input == "none":
        return x
    scale = float(stored["input_scale"])
    ratio = torch.from_numpy(x / scale)
    if form.weight == "int8":
        return ratio.round().clamp(-128, 127).numpy() * scale
    return ratio.clamp(-448, 448).to(torch.float8_e4m3fn).double().numpy() * scale


def bound_graph(folder, form, stored, nodes, calls):
    """Return a graph of linear layers with their weights bound, and the result of the rule."""
    save_file(
        {f"layer.{suffix}": tensor.contiguous() for suffix, tensor in stored.items()}, folder / "model.safetensors"
    )
    tensors = index_tensors(read_headers(folder))
    kind = (np.float32, ["n", INPUTS])
    outputs = {node.output[0]: (np.float32, ["n", OUTPUTS]) for node in nodes}
    model = model_of(nodes, {"x": kind, "layer.weight": (np.float32, [OUTPUTS, INPUTS])}, outputs,
                     {"bias": np.arange(OUTPUTS, dtype=np.float32)})  # fmt: skip
    graph = import_graph(model)
    graph.inputs = [tensor for tensor in graph.inputs if tensor.name == "x"]
    made = quantized("F32", form, calls=calls)
    [result] = run_rules(graph, made.rules, NOTHING)
    changed = gs.export_onnx(graph)
    changed.ir_version = 11
    layout = bind(list(made.recipes), tensors, folder / "model.onnx.data", report=Reporter("bind")).layout
    attach(changed, list(made.recipes), layout)
    onnx.save(changed, folder / "model.onnx")
    onnx.checker.check_model(folder / "model.onnx", full_check=True)
    return changed, result


def execute(folder, x):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(*FLOAT32_INPUTS)
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


@pytest.mark.parametrize("inputs", ["x layer.weight", "x layer.weight bias"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_quantized_layer(tmp_path, form, inputs):
    rng = np.random.default_rng(3)
    stored = stored_layer(form, rng)
    x = rng.integers(-64, 64, (5, INPUTS)).astype(np.float32) / 512  # exact, and far from ties of the rounding
    _graph, result = bound_graph(tmp_path, form, stored, [semantic("Linear", inputs, "y")], calls=1)
    assert (result.applied, str(result.expected)) == (1, "1")
    seen = rounded_input(form, stored, x.astype(np.float64))
    wanted = seen @ weight_of(form, stored).T + (np.arange(OUTPUTS) if "bias" in inputs else 0)
    [found] = execute(tmp_path, x)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_layer_that_is_called_twice_has_one_set_of_weights(tmp_path):
    rng = np.random.default_rng(4)
    stored = stored_layer(INT4_32, rng)
    nodes = [semantic("Linear", "x layer.weight", "y"), semantic("Linear", "x layer.weight", "z")]
    graph, result = bound_graph(tmp_path, INT4_32, stored, nodes, calls=2)
    assert result.applied == 2
    assert len(graph.graph.initializer) == 2
    first, second = execute(tmp_path, rng.standard_normal((3, INPUTS)).astype(np.float32))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("calls", "message"), [
    (2, r"QuantizedLinearToMatMul must apply 2 times .* applied 1 times"),
    (0, r"QuantizedLinearToMatMul must apply 0 times .* applied 1 times"),
])  # fmt: skip
def test_every_call_is_counted(tmp_path, calls, message):
    stored = stored_layer(FP8, np.random.default_rng(0))
    with pytest.raises(RuleCountError, match=message):
        bound_graph(tmp_path, FP8, stored, [semantic("Linear", "x layer.weight", "y")], calls=calls)


def test_a_weight_of_another_shape_is_a_near_miss():
    shapes = {"x": ["n", INPUTS], "layer.weight": [OUTPUTS, INPUTS]}
    inputs = {name: (np.float32, shape) for name, shape in shapes.items()}
    model = model_of([semantic("Linear", "x layer.weight", "y")], inputs, {"y": (np.float32, ["n", OUTPUTS])})
    [rule] = quantized("F32", FP8, inputs=2 * INPUTS).rules
    message = rf"its weight is \[{OUTPUTS}, {INPUTS}\], not \[{OUTPUTS}, {2 * INPUTS}\]"
    with pytest.raises(RuleCountError, match=message):
        run_rules(import_graph(model), [rule], NOTHING)


def quantized(element_type, form, *, inputs=INPUTS, calls=1):
    """Return the target's form of one layer."""
    linear = QuantizedLinear(
        module="layer", weight="layer.weight", form=form, outputs=OUTPUTS, inputs=inputs, calls=calls
    )
    return OnnxTarget().quantized(QuantizedModel(element_type=element_type, linears={"layer.weight": linear}))


@pytest.mark.parametrize("element_type", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("form", [NVFP4, replace(NVFP4, input="none"), MXFP8, FP8, INT4_32])
def test_scales_have_the_type_of_the_graph_where_it_can_hold_them(form, element_type):
    recipes = quantized(element_type, form).recipes
    types = {recipe.name.removeprefix("layer."): recipe.element_type for recipe in recipes}
    assert set(types) == set(form.tensors(OUTPUTS, INPUTS))
    assert types["weight_scale"] == {"nvfp4": "F8_E4M3", "mxfp8": "U8"}.get(form.weight, element_type)
    assert types.get("weight_scale_2", "F32") == "F32"
    if "input_scale" in types:
        assert types["input_scale"] == ("F32" if form.weight == "nvfp4" else element_type)


def test_a_target_without_forms_names_what_it_lacks():
    from edgellm_core.contract import Target

    class Plain(Target):
        name = "plain"

    linears = {
        form.weight: QuantizedLinear(module=form.weight, weight=form.weight, form=form, outputs=2, inputs=2)
        for form in (FP8, NVFP4)
    }
    with pytest.raises(NoFormError, match=r"Target 'plain' has no form for fp8 weights, nvfp4 weights\. Choose"):
        Plain().quantized(QuantizedModel(element_type="F16", linears=linears))
    assert Plain().quantized(QuantizedModel(element_type="F16")).rules == ()
