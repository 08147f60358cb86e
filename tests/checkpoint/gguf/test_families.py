"""Every family that reads GGUF reads what llama.cpp's converter would have written of its tiny model."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from edgellm_core.checkpoint.gguf.conversion import converted_checkpoint, model_digest
from edgellm_core.checkpoint.gguf.parts import read_gguf
from edgellm_core.host import PluginHost
from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from edgellm_core.tracing.configuration import load_config
from tests.gguf_writing import write_gguf

NO_WINDOW = {"use_sliding_window": False, "sliding_window": None, "layer_types": None}
CHANGED = {
    # what GGUF has no words for is left out of the tiny config
    "mixtral": {"sliding_window": None},
    "qwen2": NO_WINDOW,
    "qwen2_moe": NO_WINDOW | {"decoder_sparse_step": 1},
    "qwen3_moe": NO_WINDOW | {"mlp_only_layers": []},
    "gemma2": {"query_pre_attn_scalar": 24},
    "gemma3_text": {"query_pre_attn_scalar": 24},
    "smollm3": NO_WINDOW | {"no_rope_layers": None},
    "starcoder2": {"sliding_window": None},
    "olmoe": {"clip_qkv": None},
    "gpt_oss": {"swiglu_limit": 7.0},
    "phi": {"qk_layernorm": False, "num_key_value_heads": 6},
}
FAMILIES = [family for family in PluginHost.load().families() if family.gguf_forms]


def convert(path, report):
    header = read_gguf(path)
    return converted_checkpoint(header, model_digest(header), PluginHost.load(), report)


def logits(directory, vocab):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.arange(3, 43)[None] % vocab).logits


@pytest.mark.filterwarnings("ignore")  # transformers warns about pad tokens and ropes of tiny configs
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_reading_gives_the_model_that_was_written(family, tmp_path, report, events):
    config = {**family.tiny_config(), **CHANGED.get(family.name, {})}
    config = {key: value for key, value in config.items() if not (key == "layer_types" and value is None)}
    source = write_tiny_checkpoint(tmp_path / "source", config, tokenizer=False)
    made = convert(write_gguf(tmp_path / "x.gguf", source), report)
    expected, found = (load_file(folder / "model.safetensors") for folder in (source, made))
    same = {name: value for name, value in expected.items() if name in found}
    for name, value in same.items():
        # norms of Gemma were stored with 1 added, which rounds
        torch.testing.assert_close(found[name].reshape(value.shape), value, rtol=0, atol=1e-6 if "norm" in name else 0)
    assert not any("leave" in event.message for event in events if "float16" in event.message)
    host = PluginHost.load()
    config = json.loads((made / "config.json").read_text())
    assert host.select(config).family.name == family.name
    load_config(made, config, family, host.nearest)  # every key is one that transformers or the family reads
    torch.testing.assert_close(logits(made, 131), logits(source, 131), rtol=1e-4, atol=1e-5)
