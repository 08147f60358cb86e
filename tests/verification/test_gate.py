"""The gate lets right graphs pass, refuses wrong ones, and names what is wrong with them."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

from edgellm_core.checkpoint.shards import index_tensors, read_headers
from edgellm_core.host import PluginHost
from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from edgellm_core.verification.budget import FIXED_BYTES
from edgellm_core.verification.cases import DECODE_STEPS
from edgellm_core.verification.errors import (
    ActivationRangeError,
    NonFiniteActivationsError,
    ReferenceLoadError,
    ReferenceNotFiniteError,
    VerificationFailedError,
)
from edgellm_core.verification.prompts import choose_prompts
from edgellm_core.verification.tolerances import TOLERANCES

FAMILIES = ("llama", "qwen2", "qwen3")
CHECKS = {"prompt alone", "padded batch", "chunked prompt", "spread positions"}


@pytest.mark.parametrize(
    ("family", "precision", "dtype"),
    [
        *((family, precision, "float32") for family in FAMILIES for precision in ("fp32", "fp16", "bf16")),
        ("qwen3", "fp16", "bfloat16"),
        ("llama", "fp32", "float16"),
    ],
)
def test_a_right_graph_passes(exported, family, precision, dtype):
    result = exported(family, precision, dtype).verify()
    record = result.record()
    assert record.status == "passed"
    assert record.prompts == 4
    assert 0 < record.max_rel_err <= record.tolerance == TOLERANCES[precision]
    assert record.max_rel_err <= 5e-6
    assert 0 <= record.kl < 1e-9
    assert {row.case for row in result.rows} == CHECKS
    assert record.greedy_tokens_equal is True
    assert record.top1_agreement == 1


def test_what_float16_arithmetic_costs_is_recorded_and_not_judged(exported):
    records = exported("llama", "fp16").verify().record().arithmetic
    assert [record.side for record in records] == ["graph", "original"]
    assert [record.runtime.split()[0] for record in records] == ["onnxruntime", "torch"]
    assert all(record.finite and 1e-5 < record.max_rel_err < 2e-2 for record in records)
    assert all(record.kl < 1e-3 and record.top1_agreement > 0.9 for record in records)
    assert exported("llama", "fp32").verify().record().arithmetic == ()


def test_every_demanded_step_is_compared(exported):
    rows = exported("llama").verify().rows
    alone = [row for row in rows if row.case == "prompt alone"]
    assert len({row.positions for row in alone if row.step == "prefill"}) == 4
    assert sum(row.prompt == 0 and row.step.startswith("decode") for row in alone) == DECODE_STEPS >= 16
    padded = [row for row in rows if row.case == "padded batch" and row.step == "prefill"]
    assert padded[0].positions < padded[1].positions
    chunked = [row.step for row in rows if row.case == "chunked prompt"]
    assert chunked[:3] == ["prefill chunk 1", "prefill chunk 2", "decode step 1"]


def test_one_layer_at_a_time_it_finds_the_same(exported):
    """A budget that holds one layer changes the parts, not the proof."""
    whole = exported("qwen2").verify()
    parts = exported("qwen2").verify(max_memory=FIXED_BYTES + 800_000)
    assert [(row.case, row.step, row.token) for row in parts.rows] == [
        (row.case, row.step, row.token) for row in whole.rows
    ]
    assert parts.max_rel_err < 5e-6


def test_without_tokenizer_random_prompts_are_used(exported):
    assert exported("qwen3", tokenizer=False).verify().record().prompts == 4


def broken(exported, tmp_path, family, mutate, precision="fp32"):
    """Return a copy of an export whose graph ``mutate`` changed in place."""
    copy = exported(family, precision).copy(tmp_path / "broken")
    model = onnx.load(copy.model, load_external_data=False)
    mutate(model.graph)
    onnx.save(model, copy.model)
    return copy


def nodes(graph, op, *, layer=None):
    found = [n for n in graph.node if n.op_type == op and (layer is None or n.name.startswith(f"layers.{layer}/"))]
    assert found, f"no {op}"
    return found


def attribute(node, name):
    return next(item for item in node.attribute if item.name == name)


def change_epsilon(graph):
    for node in nodes(graph, "RMSNormalization", layer=1):
        attribute(node, "epsilon").f = 0.1


def change_all_epsilons(graph):
    for node in nodes(graph, "RMSNormalization"):
        attribute(node, "epsilon").f = 0.1


def change_scale(graph):
    attribute(nodes(graph, "Attention", layer=2)[0], "scale").f *= 1.1


def frequencies(graph):
    """Return the constant of RoPE's frequencies: positive, falling, one for each pair of channels."""
    for tensor in graph.initializer:
        if not tensor.external_data and tensor.data_type == onnx.TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).reshape(-1)
            if values.size == 10 and (np.diff(values) < 0).all():
                return tensor, values.reshape(tuple(tensor.dims))
    raise AssertionError("no frequencies")


def change_rope(graph):
    tensor, values = frequencies(graph)
    tensor.CopyFrom(numpy_helper.from_array(values**1.05, tensor.name))


def drop_rope_scaling(graph):
    """Undo llama3's scaling of the lowest frequencies, which few positions show."""
    tensor, values = frequencies(graph)
    plain = (10000.0 ** -(np.arange(10) / 10)).astype(np.float32)
    assert not np.allclose(values.reshape(-1), plain)
    tensor.CopyFrom(numpy_helper.from_array(plain.reshape(values.shape), tensor.name))


def ignore_padding(graph):
    """Let every key count as a token: the cast of the attention mask to booleans becomes ``mask >= 0``."""
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "zero"))
    casts = [node for node in graph.node if node.op_type == "Cast" and node.input[0] == "attention_mask"]
    assert casts
    for cast in casts:
        inputs = ["attention_mask", "zero"]
        cast.CopyFrom(onnx.helper.make_node("GreaterOrEqual", inputs, list(cast.output), name=cast.name))


def swap_cache(graph):
    concat = next(n for n in nodes(graph, "Concat") if n.output[0] == "present.1.key")
    concat.input[:] = list(concat.input)[::-1]


def forget_final_norm(graph):
    norm = next(
        node for node in nodes(graph, "RMSNormalization") if "norm.weight" in node.input[1].split("model.")[-1:]
    )
    norm.CopyFrom(onnx.helper.make_node("Identity", norm.input[:1], list(norm.output), name="forgotten"))


@pytest.mark.parametrize(
    ("family", "mutate", "check", "part"),
    [
        ("llama", change_epsilon, "prompt alone", "decoder layer 1"),
        ("qwen3", change_all_epsilons, "prompt alone", "decoder layer 0"),
        ("qwen2", change_scale, "prompt alone", "decoder layer 2"),
        ("llama", change_rope, "prompt alone", "decoder layer 0"),
        ("llama", drop_rope_scaling, "prompt alone", "decoder layer 0"),
        ("llama", ignore_padding, "padded batch", "decoder layer 0"),
        ("qwen2", ignore_padding, "padded batch", "decoder layer 0"),
        ("qwen3", swap_cache, "prompt alone', decode step 1", "decoder layer 1"),
        ("llama", forget_final_norm, "prompt alone", "the final norm or the head"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_wrong_graph_is_refused_with_the_first_wrong_part(exported, tmp_path, family, mutate, check, part):
    copy = broken(exported, tmp_path, family, mutate)
    with pytest.raises(VerificationFailedError, match=re.escape(check)) as caught:
        copy.verify()
    error = caught.value
    assert error.part == part
    assert error.tensors == ()
    assert error.max_rel_err > error.tolerance == TOLERANCES["fp32"]
    assert f"first part that diverges is {part}, and its weights equal the checkpoint's" in str(error)
    assert f"max_rel_err {error.max_rel_err:.2g} exceeds the tolerance 0.0001" in str(error)


@pytest.mark.parametrize("mutate", [change_scale, change_all_epsilons])
def test_a_wrong_graph_is_refused_in_fp16(exported, tmp_path, mutate):
    copy = broken(exported, tmp_path, "qwen2", mutate, "fp16")
    with pytest.raises(VerificationFailedError, match=r"exceeds the tolerance 0\.0001") as caught:
        copy.verify()
    assert caught.value.part == {change_scale: "decoder layer 2", change_all_epsilons: "decoder layer 0"}[mutate]


def test_spread_positions_show_what_short_prompts_do_not(export_checkpoint, tmp_path):
    """RoPE scaling that starts beyond 8192 tokens hardly changes a prompt of 34."""
    config = dict(PluginHost.load(environ={}).select({}, forced="llama").family.tiny_config())
    scaling = {**config["rope_parameters"], "original_max_position_embeddings": 8192}
    config.update(max_position_embeddings=65536, rope_parameters=scaling)
    directory = write_tiny_checkpoint(tmp_path / "checkpoint", config)
    export = export_checkpoint(directory, tmp_path / "export", "fp16")
    assert export.verify().max_rel_err < 5e-6
    model = onnx.load(export.model, load_external_data=False)
    drop_rope_scaling(model.graph)
    onnx.save(model, export.model)
    with pytest.raises(VerificationFailedError, match="in 'spread positions'") as caught:
        export.verify(tolerance=1e-2)  # prompts show less
    assert caught.value.part == "decoder layer 0"


def change_weight(export, name, element=3, value=1.0):
    """Set one element of a weight in the data file."""
    model = onnx.load(export.model, load_external_data=False)
    tensor = next(item for item in model.graph.initializer if item.name == name)
    offset = next(int(entry.value) for entry in tensor.external_data if entry.key == "offset")
    dtype = {1: np.float32, 10: np.float16}[tensor.data_type]
    data = np.memmap(export.model.with_name("model.onnx.data"), dtype, "r+", offset, math.prod(tensor.dims))
    data[element] = value
    data.flush()


@pytest.mark.parametrize(
    ("family", "precision", "name", "part"),
    [
        ("llama", "fp32", "model.layers.2.mlp.up_proj.weight", "decoder layer 2"),
        ("llama", "fp32", "model.layers.1.input_layernorm.weight", "decoder layer 1"),
        ("llama", "fp32", "model.layers.0.self_attn.q_proj.bias", "decoder layer 0"),
        ("qwen2", "fp32", "lm_head.weight", "the final norm or the head"),
        ("qwen3", "fp16", "model.layers.1.self_attn.q_norm.weight", "decoder layer 1"),
    ],
)
def test_one_changed_element_names_the_weight(exported, tmp_path, family, precision, name, part):
    copy = exported(family, precision).copy(tmp_path / "broken")
    change_weight(copy, name)
    with pytest.raises(VerificationFailedError, match="differs from the checkpoint") as caught:
        copy.verify()
    assert caught.value.part == part
    assert caught.value.tensors == (name,)
    assert f"{part}, where {name!r} differs" in str(caught.value)


def test_a_changed_embedding_is_named(exported, tmp_path):
    copy = exported("llama").copy(tmp_path / "broken")
    size = copy.checkpoint.config["hidden_size"]
    token = choose_prompts(copy.checkpoint.directory, vocab_size=131, longest=48)[0][1]
    change_weight(copy, "model.embed_tokens.weight", token * size)
    with pytest.raises(VerificationFailedError, match=r"the embedding, where 'model\.embed_tokens\.weight' differs"):
        copy.verify()


def test_a_wrong_weight_is_named_one_layer_at_a_time(exported, tmp_path):
    copy = exported("qwen2").copy(tmp_path / "broken")
    change_weight(copy, "model.layers.1.mlp.down_proj.weight")
    with pytest.raises(VerificationFailedError, match=r"decoder layer 1, where 'model\.layers\.1\.mlp\.down_proj"):
        copy.verify(max_memory=FIXED_BYTES + 800_000)


def test_errors_within_rounding_name_no_layer(exported):
    with pytest.raises(VerificationFailedError, match=r"within the rounding of fp16, .* --precision bf16 or") as caught:
        exported("llama", "fp16").verify(tolerance=1e-9)
    assert caught.value.part is None


def test_a_flip_that_is_only_a_tie_passes_and_is_told(exported, tmp_path):
    def shift_epsilon(graph):
        for node in nodes(graph, "RMSNormalization"):
            attribute(node, "epsilon").f = 0.01

    notes = []
    result = broken(exported, tmp_path, "llama", shift_epsilon).verify(tolerance=0.2, notes=notes)
    assert result.ties > 0
    assert result.top1_agreement < 1
    assert any("ties, which are let through" in note for note in notes)


def write_overflowing_checkpoint(directory, *, factor):
    """Write a checkpoint whose layer 1 multiplies the values inside its MLP, so that float16 can't hold them."""
    write_tiny_checkpoint(directory, dict(PluginHost.load(environ={}).select({}, forced="llama").family.tiny_config()))
    path = directory / "model.safetensors"
    weights = load_file(path)
    for name, by in (("gate_proj", factor), ("up_proj", factor), ("down_proj", 1 / factor)):
        weights[f"model.layers.1.mlp.{name}.weight"] *= by
    save_file(weights, path, metadata={"format": "pt"})
    return directory


def test_values_beyond_float16_are_refused_with_the_layer(export_checkpoint, tmp_path):
    directory = write_overflowing_checkpoint(tmp_path / "checkpoint", factor=300.0)
    export = export_checkpoint(directory, tmp_path / "fp16", "fp16")
    with pytest.raises(ActivationRangeError, match=r"float16 ends at 65504; .* --precision bf16 or") as caught:
        export.verify()
    assert caught.value.part == "decoder layer 1"
    assert "'model.layers.1.mlp.down_proj' in decoder layer 1 takes values up to" in str(caught.value)
    assert export_checkpoint(directory, tmp_path / "bf16", "bf16").verify().greedy_tokens_equal


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_name_the_layer_and_the_weight(exported, tmp_path, value):
    copy = exported("llama", "fp16").copy(tmp_path / "broken")
    name = "model.layers.1.self_attn.k_proj.bias"
    change_weight(copy, name, value=value)
    with pytest.raises(NonFiniteActivationsError, match="logits are not finite in 'prompt alone'") as caught:
        copy.verify()
    assert (caught.value.part, caught.value.tensors) == ("decoder layer 1", (name,))


def test_an_overflow_of_the_graph_alone_suggests_another_precision(exported, tmp_path):
    def overflow(graph):
        norm = nodes(graph, "RMSNormalization", layer=2)[0]
        scaled = onnx.helper.make_node("Div", [norm.output[0], "nothing"], ["overflowing"], name="overflow")
        graph.initializer.append(numpy_helper.from_array(np.array(0, np.float16), "nothing"))
        for node in graph.node:
            node.input[:] = ["overflowing" if name == norm.output[0] else name for name in node.input]
        graph.node.insert(list(graph.node).index(norm) + 1, scaled)

    copy = broken(exported, tmp_path, "qwen3", overflow, "fp16")
    with pytest.raises(NonFiniteActivationsError, match=r"come out of decoder layer 2; .* --precision bf16 or"):
        copy.verify()


def test_a_reference_that_is_not_finite_is_the_checkpoints_fault(exported, tmp_path):
    copy = exported("llama").copy(tmp_path / "copy")
    directory = write_overflowing_checkpoint(tmp_path / "checkpoint", factor=1e30)
    copy.checkpoint = with_source(copy.checkpoint, directory)
    with pytest.raises(ReferenceNotFiniteError, match="itself yields logits that are not finite"):
        copy.verify()


def with_source(checkpoint, directory):
    return dataclasses.replace(checkpoint, directory=directory, tensors=index_tensors(read_headers(directory)))


def test_a_reference_without_all_weights_is_refused(exported, tmp_path):
    copy = exported("llama").copy(tmp_path / "copy")
    directory = write_overflowing_checkpoint(tmp_path / "checkpoint", factor=1.0)
    weights = load_file(directory / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    copy.checkpoint = with_source(copy.checkpoint, directory)
    with pytest.raises(ReferenceLoadError, match=r"missing weights model\.layers\.2\.mlp\.up_proj\.weight"):
        copy.verify()
