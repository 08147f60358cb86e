"""The gate lets graphs of quantized checkpoints pass, and refuses every graph that differs in one thing."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from edgellm_core.verification.budget import FIXED_BYTES
from edgellm_core.verification.errors import NonFiniteActivationsError, VerificationFailedError
from edgellm_core.verification.tolerances import QUANTIZED, TOLERANCES

pytestmark = pytest.mark.slow
SCHEMES = ("fp8", "int8_sq", "int4_awq", "nvfp4", "mxfp8", "fp8-kv", "awq", "gptq")
DTYPES = {1: np.float32, 10: np.float16}
UP = "model.layers.1.mlp.up_proj"
DOWN = "model.layers.1.mlp.down_proj"
QUERY = "model.layers.1.self_attn.q_proj"
KEYS = "model.layers.1.self_attn.k_proj.k_scale"
LAYER = "decoder layer 1"


@pytest.mark.parametrize(
    ("scheme", "precision"),
    [
        *((scheme, "fp16") for scheme in SCHEMES),
        *((scheme, precision) for scheme in ("fp8-kv", "int4_awq", "nvfp4", "mxfp8") for precision in ("fp32", "bf16")),
    ],
)
def test_a_right_graph_passes(quantized, scheme, precision):
    record = quantized(scheme, precision).verify().record()
    assert record.status == "passed"
    assert record.tolerance == TOLERANCES[QUANTIZED]
    assert record.max_rel_err < 5e-6
    assert record.greedy_tokens_equal is True
    assert record.top1_agreement == 1


def test_one_layer_at_a_time_it_finds_the_same(quantized):
    result = quantized("nvfp4").verify(max_memory=FIXED_BYTES + 2_000_000)
    assert result.max_rel_err < 5e-6


@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        (
            "fp8-kv",
            ["weights of 14 linear layers", "rounding by modelopt", "keys and values rounded to fp8"],
        ),
        ("nvfp4", ["inputs rounded to nvfp4 in float64", "ran as plain ones over the same stored weights"]),
        ("int4_awq", ["dequantized weights of 14", "weights and scales in fp16; the graph ran with types raised"]),
    ],
)
def test_the_record_says_what_the_graph_was_compared_with(quantized, scheme, words):
    reference = quantized(scheme).verify().reference
    assert all(word in reference for word in words)


def tensor_of(export, name):
    """Return a writable view of the bytes of an initializer in the data file, and its description."""
    model = onnx.load(export.model, load_external_data=False)
    tensor = next(item for item in model.graph.initializer if item.name == name)
    place = {entry.key: entry.value for entry in tensor.external_data}
    data = export.model.with_name("model.onnx.data")
    return tensor, np.memmap(data, np.uint8, "r+", int(place["offset"]), int(place["length"]))


def scaled(name, factor):
    def change(export):
        tensor, data = tensor_of(export, name)
        values = data.view(DTYPES[tensor.data_type])
        values[:] = values * factor

    return change


def next_exponent(name):
    """Double one block's scale E8M0."""

    def change(export):
        _, data = tensor_of(export, name)
        data[5] += 1

    return change


def swapped_nibbles(name):
    def change(export):
        _, data = tensor_of(export, name)
        data[:] = data << 4 | data >> 4

    return change


def next_zero_point(name):
    """Raise one zero point of 16 · 2 · 128."""

    def change(export):
        _, data = tensor_of(export, name)
        data[7] = data[7] & 0xF0 | (data[7] + 1) & 0x0F

    return change


def swapped_inputs(name):
    """Exchange two inputs of different groups."""

    def change(export):
        _, data = tensor_of(export, name)
        order = data.view(np.int64)
        order[[3, 77]] = order[[77, 3]]

    return change


def transposed(name):
    def change(export):
        tensor, data = tensor_of(export, name)
        values = data.view(DTYPES.get(tensor.data_type, np.uint8)).reshape(list(tensor.dims))
        data[:] = np.ascontiguousarray(values.T).view(np.uint8).reshape(-1)

    return change


def reversed_order(name):
    def change(export):
        tensor, data = tensor_of(export, name)
        values = data.view(DTYPES[tensor.data_type])
        values[:] = values[::-1].copy()

    return change


def edited(change_graph):
    """Return a change of the graph alone."""

    def change(export):
        model = onnx.load(export.model, load_external_data=False)
        change_graph(model.graph)
        onnx.save(model, export.model)

    return change


def without_smoothing(module):
    def change(graph):
        node = next(n for n in graph.node if n.op_type == "Mul" and f"{module}.pre_quant_scale" in n.input)
        replace(graph, node.output[0], next(name for name in node.input if not name.endswith("pre_quant_scale")))

    return edited(change)


def without_order(module):
    def change(graph):
        node = next(n for n in graph.node if n.op_type == "Gather" and f"{module}.input_order" in n.input)
        replace(graph, node.output[0], node.input[0])

    return edited(change)


def without_rounding(module):
    """Leave the input of one layer as it is."""

    def change(graph):
        producers = {name: node for node in graph.node for name in node.output}
        consumers = {name: node for node in graph.node for name in node.input}
        product = consumers[f"{module}.weight"]
        while product.op_type != "MatMul":
            product = consumers[product.output[0]]
        name = product.input[0]
        while producers[name].op_type in (
            "Cast", "DequantizeLinear", "QuantizeLinear", "TRT_FP4DynamicQuantize", "TRT_MXFP8DynamicQuantize",
            "TRT_MXFP8DequantizeLinear",
        ):  # fmt: skip
            name = producers[name].input[0]
        product.input[0] = name

    return edited(change)


def other_epsilon():
    def change(graph):
        for node in graph.node:
            if node.op_type == "RMSNormalization" and "layers.1." in node.input[1]:
                next(item for item in node.attribute if item.name == "epsilon").f = 1e-2

    return edited(change)


def replace(graph, old, new):
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


DATA = [
    *((scheme, scaled, f"{UP}.weight_scale", 1.05) for scheme in ("fp8", "int8_sq", "int4_awq")),
    *((scheme, scaled, f"{QUERY}.weight_scale", 1.05) for scheme in ("fp8", "int8_sq", "int4_awq")),
    *((scheme, scaled, f"{DOWN}.weight_scale", 1.05) for scheme in ("fp8", "int8_sq", "int4_awq")),
    ("nvfp4", scaled, f"{UP}.weight_scale_2", 1.05),
    ("nvfp4", scaled, f"{QUERY}.weight_scale_2", 1.05),
    ("mxfp8", next_exponent, f"{UP}.weight_scale"),
    ("mxfp8", next_exponent, f"{DOWN}.weight_scale"),
    *((scheme, scaled, f"{UP}.input_scale", 1.05) for scheme in ("fp8", "int8_sq", "nvfp4")),
    *((scheme, scaled, f"{DOWN}.input_scale", 1.05) for scheme in ("fp8", "int8_sq", "nvfp4")),
    *((scheme, swapped_nibbles, f"{UP}.weight") for scheme in ("int4_awq", "nvfp4")),
    *((scheme, transposed, f"{DOWN}.weight_scale") for scheme in ("int4_awq", "nvfp4", "mxfp8")),
    ("fp8", transposed, f"{UP}.weight"),
    ("int8_sq", reversed_order, f"{UP}.weight_scale"),
    ("int8_sq", scaled, f"{UP}.pre_quant_scale", 1.05),
    ("int4_awq", reversed_order, f"{DOWN}.pre_quant_scale"),
    ("fp8-kv", scaled, KEYS, 1.05),
    ("awq", next_zero_point, f"{UP}.weight_zero_point"),
    ("awq", scaled, f"{UP}.weight_scale", 1.05),
    ("gptq", swapped_inputs, f"{UP}.input_order"),
    ("gptq", swapped_nibbles, f"{QUERY}.weight"),
    ("fp8", scaled, "model.layers.1.input_layernorm.weight", 1.01),
]  # fmt: skip


@pytest.mark.parametrize(
    ("scheme", "make", "arguments"),
    [(scheme, make, arguments) for scheme, make, *arguments in DATA],
    ids=[f"{scheme}-{make.__name__}-{name.removeprefix('model.layers.')}" for scheme, make, name, *_ in DATA],
)
def test_a_changed_number_is_refused_and_named(quantized, tmp_path, scheme, make, arguments):
    copy = quantized(scheme).copy(tmp_path / "broken")
    make(*arguments)(copy)
    with pytest.raises(VerificationFailedError) as caught:
        copy.verify()
    assert caught.value.part == LAYER
    assert caught.value.tensors == (arguments[0],)
    assert f"{LAYER}, where {arguments[0]!r} differs from the checkpoint" in str(caught.value)


GRAPHS = [
    ("int8_sq", without_smoothing(UP)),
    ("int8_sq", without_smoothing(QUERY)),
    ("int4_awq", without_smoothing(DOWN)),
    *((scheme, without_rounding(module)) for scheme in ("fp8", "int8_sq", "nvfp4", "mxfp8") for module in (UP, QUERY)),
    ("gptq", without_order(UP)),
    *((scheme, other_epsilon()) for scheme in SCHEMES),
]


@pytest.mark.parametrize(("scheme", "change"), GRAPHS)
def test_a_changed_graph_is_refused_and_the_layer_named(quantized, tmp_path, scheme, change):
    copy = quantized(scheme).copy(tmp_path / "broken")
    change(copy)
    with pytest.raises(
        VerificationFailedError, match="weights equal the checkpoint's, so the graph computes"
    ) as caught:
        copy.verify()
    assert caught.value.part == LAYER
    assert caught.value.tensors == ()


def test_a_cache_scale_of_zero_is_refused(quantized, tmp_path):
    copy = quantized("fp8-kv").copy(tmp_path / "broken")
    scaled(KEYS, 0.0)(copy)
    with pytest.raises(VerificationFailedError) as caught:
        copy.verify()
    assert (caught.value.part, caught.value.tensors) == (LAYER, (KEYS,))


def test_a_rounding_that_differs_is_told_with_its_place(quantized, tmp_path):
    copy = quantized("fp8").copy(tmp_path / "broken")
    scaled(f"{UP}.input_scale", 1.05)(copy)
    with pytest.raises(VerificationFailedError, match=rf"of the numbers that '{UP}' takes are rounded to others in"):
        copy.verify()


def test_values_that_are_not_finite_name_the_layer(quantized, tmp_path):
    copy = quantized("int4_awq").copy(tmp_path / "broken")
    scaled(f"{UP}.weight_scale", math.inf)(copy)
    with pytest.raises(NonFiniteActivationsError, match="logits are not finite") as caught:
        copy.verify()
    assert caught.value.part == LAYER


@pytest.mark.parametrize("scheme", ["fp8", "int4_awq", "nvfp4", "mxfp8"])
def test_weights_are_dequantized_step_by_step_where_memory_is_short(quantized, monkeypatch, scheme):
    monkeypatch.setattr("edgellm_core.verification.session.available_memory", lambda: 0)
    assert quantized(scheme).verify().max_rel_err < 5e-6
