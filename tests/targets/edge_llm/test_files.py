"""What the runtime needs beside the graph, and what is refused for the lack of it."""

from __future__ import annotations

import json
import shutil

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

import edgellm_core
from edgellm_core.engine.errors import OtherEngineBuilderError
from edgellm_core.targets.edge_llm.errors import ChatTemplateMissingError, TokenizerMissingError


def _build(checkpoint, out, **settings):
    notes = []
    bundle = edgellm_core.build(
        checkpoint,
        out,
        target="edge-llm",
        verify="off",
        listener=lambda event: notes.append(event.message),
        **{"engine": "none", **settings},
    )
    return bundle, [note for note in notes if note]


@pytest.fixture
def checkpoint(edge_llm, tmp_path):
    return shutil.copytree(edge_llm("llama").checkpoint, tmp_path / "checkpoint")


def _settings(checkpoint, change):
    path = checkpoint / "tokenizer_config.json"
    stated = json.loads(path.read_text(encoding="utf-8"))
    change(stated)
    path.write_text(json.dumps(stated), encoding="utf-8")


def test_no_chat_template_anywhere(checkpoint, tmp_path):
    _settings(checkpoint, lambda stated: stated.pop("chat_template", None))
    with pytest.raises(ChatTemplateMissingError, match="needs a chat template"):
        _build(checkpoint, tmp_path / "out", family="generic")


def test_the_familys_template_is_taken(edge_llm):
    built = edge_llm("glm4")
    stated = json.loads((built.checkpoint / "tokenizer_config.json").read_text(encoding="utf-8"))
    text = (built.bundle.llm / "chat_template.jinja").read_text(encoding="utf-8")
    assert text
    assert text == stated.get("chat_template", text)


def test_a_template_of_its_own_file_wins(checkpoint, tmp_path):
    (checkpoint / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    bundle, _ = _build(checkpoint, tmp_path / "out")
    assert (bundle.llm / "chat_template.jinja").read_text(encoding="utf-8") == "{{ messages }}"


def test_no_tokenizer(checkpoint, tmp_path):
    for path in (*checkpoint.glob("token*"), *checkpoint.glob("chat_template*")):
        path.unlink()
    with pytest.raises(TokenizerMissingError, match="needs a tokenizer"):
        _build(checkpoint, tmp_path / "out")


def test_stop_tokens_of_both_files(checkpoint, tmp_path):
    (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 2]}), encoding="utf-8")
    bundle, _ = _build(checkpoint, tmp_path / "out")
    assert json.loads((bundle.llm / "config.json").read_text(encoding="utf-8"))["eos_token_id"] == [2, 7]


def test_the_engine_is_the_runtimes(checkpoint, tmp_path):
    _, notes = _build(checkpoint, tmp_path / "out", engine="auto")
    assert any(f"llm_build --onnxDir {tmp_path / 'out' / 'llm'}" in note for note in notes)
    with pytest.raises(OtherEngineBuilderError, match="'edge-llm' are built with tensorrt; got --engine tensorrt-rtx"):
        _build(checkpoint, tmp_path / "other", engine="tensorrt-rtx")


def test_the_one_table_of_longrope_is_told(edge_llm, tmp_path):
    _, notes = _build(edge_llm("phi3").checkpoint, tmp_path / "out")
    assert any("--maxKVCacheCapacity 12 or less" in note for note in notes)


def test_the_bundle_splits_text_as_the_runtime_reads_it(checkpoint, tmp_path):
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = Tokenizer(models.BPE({byte: index for index, byte in enumerate(sorted(words.alphabet())[:90])}, []))
    tokenizer.pre_tokenizer = words
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    bundle, _ = _build(checkpoint, tmp_path / "out")
    written = json.loads((bundle.llm / "tokenizer.json").read_text(encoding="utf-8"))
    assert [step["type"] for step in written["pre_tokenizer"]["pretokenizers"]] == ["Split", "ByteLevel"]
