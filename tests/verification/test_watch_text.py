"""What the range is watched on: enough text, and each token that may be extreme."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from edgellm_core.runtime.tokenizer import BundleTokenizer
from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from edgellm_core.verification.extreme_tokens import SMALL_VOCABULARY, amplified_directions, extreme_tokens
from edgellm_core.verification.range_watch import RangeWatch
from edgellm_core.verification.watch_text import ROW_LENGTH, TEXT_TOKENS, watch_text
from tests.corpus.checkpoints import LLAMA

HIDDEN, VOCAB, RARE = 64, 5000, 4321


@pytest.fixture
def table():
    """An embedding without extremes."""
    return torch.randn(VOCAB, HIDDEN, generator=torch.Generator().manual_seed(0))


class Layer(nn.Module):
    def __init__(self, norm):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.input_layernorm = norm
        self.gate_proj = nn.Linear(HIDDEN, 96, bias=False)
        self.down_proj = nn.Linear(96, HIDDEN, bias=False)
        with torch.no_grad():
            self.gate_proj.weight.normal_(generator=generator)


def direction():
    vector = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(2))
    return vector / vector.norm()


def zeros(row):
    row.zero_()


def large(row):
    row.mul_(3.0)


def one_channel(row):
    norm = row.norm().clone()
    row.zero_()
    row[17] = norm


def two_channels(row):
    norm = row.norm().clone()
    row.mul_(0.1)
    row[5] = row[40] = -0.7 * norm


@pytest.mark.parametrize("change", [zeros, large, one_channel, two_channels])
def test_a_token_that_is_extreme_by_itself_is_found(table, change):
    assert RARE not in extreme_tokens(table, (VOCAB, HIDDEN))
    change(table[RARE])
    assert RARE in extreme_tokens(table, (VOCAB, HIDDEN))


@pytest.mark.parametrize("hidden_by_norm", [False, True])
def test_a_token_along_an_amplified_direction_is_found(table, hidden_by_norm):
    table[RARE] = direction() * table[RARE].norm()
    layer = Layer(nn.RMSNorm(HIDDEN))
    with torch.no_grad():
        layer.gate_proj.weight[:] += 3 * torch.randn(96, 1, generator=torch.Generator().manual_seed(3)) * direction()
        if hidden_by_norm:  # what the weight lost, the norm multiplies
            layer.input_layernorm.weight.copy_(torch.linspace(0.05, 30, HIDDEN))
            layer.gate_proj.weight.div_(layer.input_layernorm.weight)
    directions = amplified_directions(layer, HIDDEN)
    assert RARE not in extreme_tokens(table, (VOCAB, HIDDEN))
    assert RARE in extreme_tokens(table, (VOCAB, HIDDEN), directions)


def test_norms_that_store_their_weight_less_one_count_as_they_compute():
    class OneMore(nn.RMSNorm):
        def forward(self, values):
            return nn.functional.rms_norm(values, (HIDDEN,), self.weight + 1)

    plain, one_more = Layer(nn.RMSNorm(HIDDEN)), Layer(OneMore(HIDDEN))
    with torch.no_grad():
        plain.input_layernorm.weight.copy_(torch.linspace(0.5, 3, HIDDEN))
        one_more.input_layernorm.weight.copy_(torch.linspace(0.5, 3, HIDDEN) - 1)
    one, other = (amplified_directions(layer, HIDDEN) for layer in (plain, one_more))
    torch.testing.assert_close(one.abs(), other.abs(), atol=1e-4, rtol=1e-4)


def test_a_slice_of_a_file_and_any_chunks_give_the_same(table, tmp_path, monkeypatch):
    wanted = extreme_tokens(table, (VOCAB, HIDDEN))
    save_file({"embedding": table}, tmp_path / "model.safetensors")
    monkeypatch.setattr("edgellm_core.verification.extreme_tokens.CHUNK_BYTES", 4 * HIDDEN * 37)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert extreme_tokens(file.get_slice("embedding"), (VOCAB, HIDDEN)) == wanted


def test_a_small_vocabulary_is_tried_whole(tmp_path):
    text = watch_text(tmp_path, torch.zeros(SMALL_VOCABULARY, 4), (SMALL_VOCABULARY, 4), context=64)
    assert text.extreme[:, 0].tolist() == list(range(SMALL_VOCABULARY))


@pytest.mark.parametrize(("context", "length"), [(None, ROW_LENGTH), (8192, ROW_LENGTH), (48, 48), (1, 1)])
def test_the_text_fits_the_context_and_is_the_same_each_time(tmp_path, table, context, length):
    text = watch_text(tmp_path, table, (VOCAB, HIDDEN), vocab_size=VOCAB - 7, context=context)
    again = watch_text(tmp_path, table, (VOCAB, HIDDEN), vocab_size=VOCAB - 7, context=context)
    assert text.text.shape[1] == length
    assert text.text.size >= TEXT_TOKENS
    assert text.extreme.shape[1] == min(2, length)
    for rows, same in ((text.text, again.text), (text.extreme, again.extreme)):
        assert rows.dtype == np.int64
        assert rows.max() < VOCAB - 7
        assert (rows == same).all()


def test_markers_and_rows_beyond_the_tokenizer_are_tried_at_the_start_and_behind_a_token(tmp_path, table):
    directory = write_tiny_checkpoint(tmp_path / "model", LLAMA | {"vocab_size": 300}, tokenizer=True)
    tokenizer = BundleTokenizer(directory)
    text = watch_text(directory, table, (VOCAB, HIDDEN), context=None)
    wanted = {*tokenizer.added_ids, *range(tokenizer.size, tokenizer.size + 20)}
    assert tokenizer.added_ids
    for column in text.extreme.T:
        assert wanted <= set(column.tolist())


def test_a_token_that_drives_a_layer_past_float16_is_seen(tmp_path):
    torch.manual_seed(0)
    config = LlamaConfig(**{**LLAMA, "vocab_size": VOCAB, "hidden_size": HIDDEN})
    model = LlamaForCausalLM(config).eval()
    vector, layer = direction(), model.model.layers[0]
    with torch.no_grad():
        model.model.embed_tokens.weight[RARE] = vector * model.model.embed_tokens.weight[RARE].norm()
        for part in (layer.mlp.gate_proj, layer.mlp.up_proj):
            part.weight += 60 * vector
    embedding = model.model.embed_tokens.weight
    text = watch_text(tmp_path, embedding, (VOCAB, HIDDEN), context=256, directions=amplified_directions(layer, HIDDEN))
    watch = RangeWatch()
    with torch.inference_mode(), watch.watching(model):
        model(torch.from_numpy(text.extreme))
    assert watch.excess[0].module == "model.layers.0.mlp.down_proj"
