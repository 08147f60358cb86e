from __future__ import annotations

import dataclasses
import json
import re
import shutil

import pytest
import safetensors.torch
from gguf_files import write_llama_gguf

from edgellm_core.checkpoint import preflight
from edgellm_core.checkpoint.errors import NotACheckpointError
from edgellm_core.checkpoint.machine import available_memory, cgroup_memory, free_disk
from edgellm_core.checkpoint.preflight import TensorSpec, read_metadata, summarize


def change_config(directory, **fields):
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def summary_of(directory, registry, **options):
    return summarize(read_metadata(str(directory), registry=registry), **options)


@pytest.mark.parametrize(("name", "nbytes", "element_type"), [("tiny_single", 2, "BF16"), ("tiny_sharded", 4, "F32")])
def test_summary_counts_what_is_in_the_files(request, registry, name, nbytes, element_type):
    directory = request.getfixturevalue(name)
    summary = summary_of(directory, registry)
    expected = sum(
        value.numel()
        for file in directory.glob("*.safetensors")
        for value in safetensors.torch.load_file(file).values()
    )
    assert summary.parameters == expected
    assert summary.bytes == expected * nbytes
    assert summary.element_types == {element_type: expected}
    assert (summary.dimensions.layers, summary.dimensions.kv_heads, summary.dimensions.head_dim) == (2, 2, 4)
    assert summary.dimensions.tied_embeddings is False
    assert summary.will_not_work == ()
    assert [item.stage for item in summary.stages][0] == "trace"  # noqa: RUF015


def test_summary_of_gguf(tmp_path, registry):
    summary = summary_of(write_llama_gguf(tmp_path / "x.gguf"), registry)
    assert summary.kind == "gguf"
    assert summary.element_types == {"F32": summary.parameters}
    assert summary.stages[0].stage == "dequantize"
    assert (summary.dimensions.hidden_size, summary.dimensions.head_dim) == (32, 8)


@pytest.mark.parametrize(
    ("fields", "claimed", "problem"),
    [
        ({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3"}, False, None),
        (
            {"architectures": ["BertForMaskedLM"], "model_type": "vit"},
            False,
            "Its architecture is BertForMaskedLM, which is not a decoder",
        ),
        ({"architectures": ["BertForMaskedLM"]}, True, None),
        ({"architectures": ["GPT2LMHeadModel"]}, False, None),
        ({"architectures": None}, False, None),
        ({"is_encoder_decoder": True}, True, "encoder-decoder"),
        ({"quantization_config": {"quant_method": "aqlm"}}, True, r"quantized in a way that is not known \(aqlm\)"),
        ({"quantization_config": {"bits": 4}}, True, r"not known \(unknown method\)"),
        ({"quantization_config": {"quant_method": "modelopt"}}, True, None),
    ],
)
def test_what_the_config_rules_out(single, registry, fields, claimed, problem):
    change_config(single, **fields)
    problems = summary_of(single, registry, claimed=claimed).will_not_work
    if problem is None:
        assert problems == ()
    else:
        assert len(problems) == 1
        assert re.search(problem, problems[0])


@pytest.mark.parametrize(
    ("name", "element_type", "each"),
    [("up.weight", "U8", 2), ("up.qweight", "I32", 8), ("up.weight_packed", "I32", 8), ("up.weight_scale", "F32", 1)],
)
def test_packed_weights_count_as_what_they_hold(single, registry, name, element_type, each):
    tensor = TensorSpec(name=name, element_type=element_type, shape=(4, 6), nbytes=1000)
    metadata = dataclasses.replace(read_metadata(str(single), registry=registry), tensors=[tensor])
    metadata = dataclasses.replace(metadata, config={**metadata.config, "quantization_config": {"quant_method": "x"}})
    summary = summarize(metadata)
    assert summary.parameters == 24 * each
    assert next(stage for stage in summary.stages if stage.stage == "bind").disk == 1000


def test_pickle_weights_are_a_verdict_and_no_crash(single, registry):
    (single / "model.safetensors").rename(single / "pytorch_model.bin")
    summary = summary_of(single, registry)
    assert summary.parameters is None
    assert summary.bytes is None
    assert summary.stages == ()
    assert "only as pickle files (pytorch_model.bin)" in summary.will_not_work[0]
    assert summary.dimensions.layers == 2


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"tokenizer_config.json": "{}"}, "must have the tokens of its tokenizer; it has only tokenizer_config.json"),
        ({"tokenizer.model": "version https://git-lfs.github.com/spec/v1\n"}, "it is a pointer of Git LFS"),
    ],
)
def test_what_the_files_of_a_tokenizer_rule_out(single, registry, tmp_path, content, problem):
    directory = shutil.copytree(single, tmp_path / "copy", ignore=shutil.ignore_patterns("tokenizer*"))
    assert summary_of(directory, registry).will_not_work == ()
    for name, text in content.items():
        (directory / name).write_text(text)
    assert any(problem in text for text in summary_of(directory, registry).will_not_work)


def test_machine_without_memory(single, registry, monkeypatch):
    monkeypatch.setattr(preflight, "available_memory", lambda: 2**20)
    problems = summary_of(single, registry).will_not_work
    assert [problem.split(" needs ")[0] for problem in problems] == [
        "trace", "surgery", "bind", "verify", "engine",
    ]  # fmt: skip
    assert problems[3].endswith("0.0 GiB are available. Verify on a larger machine, or build with --verify off.")


def test_machine_without_disk(single, tmp_path, registry, monkeypatch):
    monkeypatch.setattr(preflight, "free_disk", lambda _path: 1000)
    assert "The bundle needs" in summary_of(single, registry).will_not_work[0]
    problems = summary_of(write_llama_gguf(tmp_path / "x.gguf"), registry).will_not_work
    assert problems[1].startswith("dequantize needs")
    assert problems[1].endswith("Set EDGELLM_CACHE.")


def test_directory_without_config(tmp_path, registry):
    with pytest.raises(NotACheckpointError, match=r"no config\.json"):
        read_metadata(str(tmp_path), registry=registry)


def test_machine(tmp_path):
    import psutil

    assert 0 < available_memory() <= psutil.virtual_memory().total
    assert free_disk(tmp_path / "not" / "yet") == pytest.approx(free_disk(tmp_path), rel=0.05)


@pytest.mark.parametrize(
    ("limit", "used", "left"), [("1000", "700", 400), ("1000", "5000", 0), ("max", "700", None), (None, "700", None)]
)
def test_limit_of_a_control_group_counts_file_pages_as_free(tmp_path, limit, used, left):
    if limit is not None:
        (tmp_path / "limit").write_text(limit + "\n")
    (tmp_path / "used").write_text(used + "\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 100\n")
    assert cgroup_memory(tmp_path, "limit", "used", "inactive_file") == left
