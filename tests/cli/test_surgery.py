"""``edgellm surgery`` on files that torch.onnx made."""

from __future__ import annotations

import json
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

from edgellm_core import simplify_onnx
from edgellm_core.cli import edgellm

TINY = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT2 = {
    "vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2
}  # fmt: skip
MODELS = {
    "llama-eager": ("llama", TINY, "eager"),
    "llama-sdpa": ("llama", TINY, "sdpa"),
    "qwen2-sdpa": ("qwen2", TINY, "sdpa"),
    "gpt2-eager": ("gpt2", GPT2, "eager"),
}
FOUND = {
    "llama-eager": {"RMSNormalization": 5, "RotaryEmbedding": 4, "Attention": 2, "Softmax": 0, "Neg": 0, "Pow": 0},
    "llama-sdpa": {"RMSNormalization": 5, "RotaryEmbedding": 4, "Attention": 2, "Softmax": 0, "IsNaN": 0, "Pow": 0},
    "qwen2-sdpa": {"RMSNormalization": 5, "RotaryEmbedding": 4, "Attention": 2, "Softmax": 0, "IsNaN": 0, "Pow": 0},
    "gpt2-eager": {"LayerNormalization": 5, "Gelu": 2, "Attention": 2, "Softmax": 0, "Tanh": 0},
}


class Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids):
        return self.model(input_ids=input_ids, use_cache=False).logits


def tiny_model(name):
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, fields, attention = MODELS[name]
    config = AutoConfig.for_model(model_type, **fields)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return the function that exports a model through torch.onnx, once, and returns the file and the model."""
    folder, made = tmp_path_factory.mktemp("exported"), {}

    def export(name):
        if name not in made:
            model = tiny_model(name)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.onnx.export(
                    Logits(model),
                    (torch.zeros(2, 7, dtype=torch.long),),
                    dynamo=True,
                    verbose=False,
                    dynamic_shapes={"input_ids": {0: torch.export.Dim("batch"), 1: torch.export.Dim("seq")}},
                )
            path = folder / f"{name}.onnx"
            program.save(path, external_data=True)
            made[name] = path, model
        return made[name]

    return export


def invoke(*arguments):
    return CliRunner().invoke(edgellm, ["surgery", *map(str, arguments)])


def logits_of(path, ids):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: ids})[0]


def operators_of(path):
    nodes = onnx.load(path, load_external_data=False).graph.node
    return {op: sum(node.op_type == op for node in nodes) for op in {node.op_type for node in nodes}}


@pytest.mark.parametrize("name", MODELS)
def test_an_export_of_a_decoder_becomes_standard_operators(name, exported, tmp_path):
    path, model = exported(name)
    out = tmp_path / "out.onnx"
    result = invoke(path, "-o", out)
    assert result.exit_code == 0, result.output
    counts = operators_of(out)
    assert {op: counts.get(op, 0) for op in FOUND[name]} == FOUND[name]
    ids = np.random.default_rng(0).integers(0, 61, (3, 11))
    with torch.no_grad():
        expected = model(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(logits_of(out, ids), expected, atol=2e-6)
    assert "equal to the input on 3 sets of random inputs" in result.stdout


class WithCache(torch.nn.Module):
    """A decoder as optimum exports it: mask, past keys and values in, present ones out."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, *past):
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        out = self.model(input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True)
        return out.logits, *(tensor for layer in cache.layers for tensor in (layer.keys, layer.values))


@pytest.mark.parametrize(("attention", "opset"), [("eager", 17), ("sdpa", 14)])
def test_an_older_export_with_a_cache_and_left_padding(attention, opset, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "old", ("llama", TINY, attention))
    model = WithCache(tiny_model("old"))
    past = [f"past.{index}" for index in range(4)]
    ids, mask = torch.randint(3, 61, (2, 4)), torch.ones(2, 9, dtype=torch.long)
    mask[1, :3] = 0
    inputs = ids, mask, *(torch.randn(2, 2, 5, 8) for _ in past)
    axes = {"input_ids": {0: "batch", 1: "seq"}, "attention_mask": {0: "batch", 1: "past_length + seq"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            inputs,
            tmp_path / "old.onnx",
            dynamo=False,
            opset_version=opset,
            input_names=["input_ids", "attention_mask", *past],
            output_names=["logits", *(f"present.{index}" for index in range(4))],
            dynamic_axes=axes | {name: {0: "batch", 2: "past_length"} for name in past},
        )
    result = simplify_onnx(tmp_path / "old.onnx", tmp_path / "new.onnx")
    found = {op: result.operators_after.get(op, 0) for op in FOUND["llama-eager"]}
    assert found == {**FOUND["llama-eager"]}
    assert (result.opset_before, result.opset_after, result.check.cases) == (opset, 23, 3)
    with torch.no_grad():
        expected = model(*inputs)
    session = onnxruntime.InferenceSession(tmp_path / "new.onnx", providers=["CPUExecutionProvider"])
    feeds = zip(["input_ids", "attention_mask", *past], (tensor.numpy() for tensor in inputs), strict=True)
    for ours, theirs in zip(session.run(None, dict(feeds)), expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-6)


class WithMask(torch.nn.Module):
    """A decoder without a cache that takes batches of padded prompts."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, position_ids):
        return self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        ).logits


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padded_prompts_in_float16(attention, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "half", ("llama", {**TINY, "initializer_range": 0.3}, attention))
    model = WithMask(tiny_model("half")).half()
    names = ["input_ids", "attention_mask", "position_ids"]
    ids, mask = torch.randint(3, 61, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    mask[0, :4] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    tokens = {0: torch.export.Dim("batch"), 1: torch.export.Dim("seq", min=2, max=64)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (ids, mask, positions),
            dynamo=True,
            verbose=False,
            input_names=names,
            dynamic_shapes=dict.fromkeys(names, tokens),
        )
    program.save(tmp_path / "half.onnx")
    result = simplify_onnx(tmp_path / "half.onnx", tmp_path / "new.onnx")
    assert {op: result.operators_after.get(op, 0) for op in FOUND["llama-sdpa"]} == FOUND["llama-sdpa"]
    assert result.check.max_rel_err < result.check.tolerance == 2e-2
    with torch.no_grad():
        expected = model(ids, mask, positions).numpy()
    session = onnxruntime.InferenceSession(tmp_path / "new.onnx", providers=["CPUExecutionProvider"])
    feeds = dict(zip(names, (ids.numpy(), mask.numpy(), positions.numpy()), strict=True))
    visible = mask.numpy().astype(bool)
    np.testing.assert_allclose(session.run(None, feeds)[0][visible], expected[visible], rtol=0, atol=2e-2)


def test_a_second_run_applies_nothing(exported, tmp_path):
    path, _ = exported("llama-sdpa")
    once, twice = tmp_path / "once.onnx", tmp_path / "twice.onnx"
    first, second = simplify_onnx(path, once), simplify_onnx(once, twice)
    assert sum(row.applied for row in first.rules) > 0
    assert [row.rule for row in second.rules if row.applied] == []
    assert second.operators_before == second.operators_after == first.operators_after
    before, after = (onnx.load(path).graph for path in (once, twice))
    assert list(before.node) == list(after.node)
    assert {tensor.name: tensor for tensor in before.initializer} == {
        tensor.name: tensor for tensor in after.initializer
    }


def test_the_report_names_rules_operators_and_near_misses(exported, tmp_path):
    path, _ = exported("llama-eager")
    lines = invoke(path, "-o", tmp_path / "out.onnx").stdout.splitlines()
    table = {line.split()[0]: line.split()[1:] for line in lines if line and not line.startswith(" ")}
    assert table["PlainRMSNorm"] == ["5", "0"]
    assert table["PlainSwish"] == ["0", "2"]
    assert "  PlainSwish: 2 left, first 'node_silu': Swish needs opset 24, the graph has 23" in lines
    assert table["RMSNormalization"] == ["0", "5"]
    assert table["Softmax"] == ["2", "0"]
    before, after = (len(onnx.load(file).graph.node) for file in (path, tmp_path / "out.onnx"))
    assert table["all"] == [str(before), str(after)]


def test_json_events_end_with_the_result(exported, tmp_path):
    path, _ = exported("llama-eager")
    *events, last = [
        json.loads(line) for line in invoke(path, "-o", tmp_path / "out.onnx", "--json").stdout.splitlines()
    ]
    done = [event["stage"] for event in events if event["event"] == "done"]
    assert done == ["read", "surgery", "check"]
    result = last["surgery"]
    assert (result["opset_before"], result["opset_after"]) == (20, 23)
    assert result["operators_after"]["Attention"] == 2
    assert result["check"]["cases"] == 3
    assert 0 < result["check"]["max_rel_err"] < result["check"]["tolerance"] == 1e-4
    assert {row["rule"]: row["applied"] for row in result["rules"]}["PlainRotary"] == 4


def name_of(tensor):
    return tensor.name


def places_of(path):
    """Return where each initializer lies, by name; nothing for those in the file itself."""
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    return {tensor.name: [(entry.key, entry.value) for entry in tensor.external_data] for tensor in tensors}


def test_weights_stay_in_their_file_and_move_with_the_graph(exported, tmp_path):
    path, _ = exported("llama-eager")
    data = path.with_name(f"{path.name}.data")
    here, there = path.with_name("beside.onnx"), tmp_path / "there.onnx"
    for out in (here, there):
        assert invoke(path, "-o", out).exit_code == 0
    assert (tmp_path / data.name).read_bytes() == data.read_bytes()
    places = [places_of(file) for file in (path, here, there)]
    shared = {name for name, place in places[0].items() if place} & places[1].keys()
    assert len(shared) > 10
    assert all(places[0][name] == places[1][name] == places[2][name] for name in shared)
    assert invoke(path, "-o", there, "--force").exit_code == 0  # the copy that is there already serves
    here.unlink()


def test_sizes_can_be_given(exported, tmp_path):
    path, _ = exported("llama-eager")
    result = simplify_onnx(path, tmp_path / "out.onnx", dims={"batch": 4})
    assert result.check is not None
    assert result.check.cases == 3
    assert simplify_onnx(path, tmp_path / "all.onnx", dims={"batch": 4, "seq": 5}).check.cases == 1


def test_target_edge_llm_takes_float16_only(exported, tmp_path, fails):
    path, _ = exported("llama-eager")
    message = fails("surgery", path, "-o", tmp_path / "out.onnx", "--target", "edge-llm")
    assert (
        "takes float16 graphs, whose weights stay as they are; 'model.model.embed_tokens.weight' is float32" in message
    )
    assert not (tmp_path / "out.onnx").exists()
