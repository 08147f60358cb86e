"""Everything that reads files from outside, with sound input for it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from gguf_files import write_llama_gguf

from edgellm_core import api
from edgellm_core.bundle import load_bundle
from edgellm_core.calibration.data.files import file_source
from edgellm_core.checkpoint.safetensors_header import read_header
from edgellm_core.cli.detect import _lines
from edgellm_core.pipeline.foreign.reading import read_graph
from edgellm_core.registry import ModelRegistry
from edgellm_core.runtime.chat_template import render_chat
from edgellm_core.runtime.generation_settings import runtime_record
from edgellm_core.runtime.tokenizer import BundleTokenizer
from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from edgellm_core.testing.decoder_bundle import write_decoder_bundle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TINY = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 64, "hidden_size": 16,
    "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
    "max_position_embeddings": 64,
}  # fmt: skip
MESSAGES = [{"role": "user", "content": "Hello"}]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages if m.role != 'x' %}{% set c = m['content'] | trim %}"
    "<|{{ m.role }}|>{{ c * 2 }}{{ range(3) | join }}{{ c | tojson }}{% endfor %}{% macro f(x) %}{{ x }}{% endmacro %}"
    "{{ f('a') }}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
REGISTRY = """tiny:
  hub: owner/tiny
  family: llama
  precisions: &a {fp16: {status: untested}}
"""
GENERATION = {"eos_token_id": [2, 3], "temperature": 0.7, "repetition_penalty": 1.1, "suppress_tokens": [1]}
TEXTS = {
    "text.jsonl": b'{"text": "Hello", "n": 5}\n\n{"text": "world", "n": [1, {"a": null}]}\n',
    "chat.jsonl": json.dumps({"messages": MESSAGES}).encode() + b"\n",
    "text.csv": b'text,n\n"Hello, ""you""",1\nworld,2\n',
    "text.txt": "One\nparagraph.\n\nÄnother.\n".encode(),
}


@dataclass(frozen=True)
class Reader:
    """One way in.

    ``write`` writes a folder of sound input, in which ``file`` gets damaged before ``read`` reads the folder.
    """

    file: str
    write: Callable[[Path], object]
    read: Callable[[Path], object]
    costly: bool = False

    @property
    def name(self):
        return f"{self.file}, {self.write.__name__}"


def checkpoint(folder):
    write_tiny_checkpoint(folder, TINY)
    (folder / "generation_config.json").write_text(json.dumps(GENERATION))
    described = {"producer": {"name": "modelopt", "version": "0.47"}, "quantization": {"quant_algo": "FP8"}}
    (folder / "hf_quant_config.json").write_text(json.dumps(described))


def sharded(folder):
    write_tiny_checkpoint(folder, TINY, max_shard_size="4KB")


def bundle(folder):
    write_decoder_bundle(folder)


def gguf(folder):
    write_llama_gguf(folder / "model.gguf")


def loose_files(folder):
    for name, content in TEXTS.items():
        (folder / name).write_bytes(content)
    (folder / "template.jinja").write_text(TEMPLATE)
    (folder / "registry.yaml").write_text(REGISTRY)


def external_onnx(folder):
    import onnx

    weight = onnx.numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:], [weight])
    model = onnx.helper.make_model(graph)
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="data", size_threshold=0)


def detect(source):
    """Look at a model as the command does, with both of its outputs."""
    detection = api.detect(source)
    json.dumps(detection.to_json())
    list(_lines(detection))


def tokenize(folder):
    tokenizer = BundleTokenizer(folder / "llm")
    tokenizer.decode(tokenizer.encode("Hello, wörld! \N{GRINNING FACE}"))
    if tokenizer.chat_templates:
        tokenizer.render_chat(MESSAGES)


def render(folder):
    render_chat(
        (folder / "template.jinja").read_text("utf-8", "replace"), MESSAGES, special_tokens={"bos_token": "<s>"}
    )


def texts(name, *, chat=False):
    return Reader(name, loose_files, lambda folder: file_source(folder / name, None, chat=chat))


READERS = (
    Reader("config.json", checkpoint, detect, costly=True),
    Reader("hf_quant_config.json", checkpoint, detect, costly=True),
    Reader("model.safetensors.index.json", sharded, detect, costly=True),
    Reader("generation_config.json", checkpoint, runtime_record),
    Reader("model.safetensors", checkpoint, lambda folder: read_header(folder / "model.safetensors")),
    Reader("model.gguf", gguf, lambda folder: detect(folder / "model.gguf"), costly=True),
    Reader("bundle.json", bundle, load_bundle),
    Reader("llm/tokenizer.json", bundle, tokenize),
    Reader("llm/tokenizer_config.json", bundle, tokenize),
    Reader("model.onnx", external_onnx, lambda folder: read_graph(folder / "model.onnx")),
    Reader("template.jinja", loose_files, render),
    Reader("registry.yaml", loose_files, lambda folder: ModelRegistry.load(folder / "registry.yaml")),
    texts("text.jsonl"),
    texts("chat.jsonl", chat=True),
    texts("text.csv"),
    texts("text.txt"),
)
