"""A conversion that loses or misplaces something is refused, although the original is what it made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgellm_core.checkpoint.errors import GgufAccountError, GgufConversionError, GgufReadersDisagreeError
from edgellm_core.checkpoint.gguf import config, conversion, plan, rope, tokenizer, values, writer
from edgellm_core.checkpoint.gguf.conversion import converted_checkpoint, model_digest
from edgellm_core.checkpoint.gguf.parts import read_gguf
from edgellm_core.gguf_form import GgufForm
from edgellm_core.host import PluginHost
from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from tests.gguf_writing import write_gguf

LLAMA = {
    "model_type": "llama", "vocab_size": 131, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "attention_bias": True,
    "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
GEMMA2 = LLAMA | {
    "model_type": "gemma2", "head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 8, "attention_bias": False,
    "attn_logit_softcapping": 1.5, "final_logit_softcapping": 4.0, "rope_parameters": PLAIN,
    "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    made = {}
    for name, fields in {"llama": LLAMA, "yarn": LLAMA | {"rope_parameters": YARN}, "gemma2": GEMMA2}.items():
        folder = tmp_path_factory.mktemp(name)
        source = write_tiny_checkpoint(folder / "source", fields, tokenizer=False)
        made[name] = write_gguf(folder / "x.gguf", source)
    return made


def drop_a_bias(patch):
    whole = plan._Planner.targets_of

    def without(self, tensor):
        return iter(()) if tensor.name == "blk.1.attn_k.bias" else whole(self, tensor)

    patch.setattr(plan._Planner, "targets_of", without)


def drop_frequency_factors(patch):
    patch.setattr(rope, "_read_factors", lambda *_arguments: {})


def drop_scaling(patch):
    patch.setattr(rope, "_yarn", lambda *_arguments: {"rope_type": "default"})


def drop_part_of_the_scaling(patch):
    whole = rope._yarn
    patch.setattr(rope, "_yarn", lambda *arguments: whole(*arguments) | {"attention_factor": 1.0})


def forget_a_key(patch):
    patch.setattr(config, "COMMON_KEYS", {key: name for key, name in config.COMMON_KEYS.items() if "rms" not in key})


def read_a_key_and_drop_it(patch):
    whole = config._read_keys

    def without(found, metadata, form):
        whole(found, metadata, form)
        del found["attn_logit_softcapping"]

    patch.setattr(config, "_read_keys", without)


def swap_gate_and_up(patch):
    names = dict(plan.COMMON_TENSORS)
    gate, up = "blk.{n}.ffn_gate", "blk.{n}.ffn_up"
    names[gate], names[up] = names[up], names[gate]
    patch.setattr(plan, "COMMON_TENSORS", names)


def skip_the_permutation(patch):
    patch.setattr(values, "row_order", lambda target, begin, end, _rows: np.arange(begin, end) + target.first_row)


def permute_keys_by_the_number_of_queries(patch):
    whole = plan._Planner._target

    def wrong(self, *arguments):
        target = whole(self, *arguments)
        return replace(target, paired_heads=target.paired_heads and 4)

    patch.setattr(plan._Planner, "_target", wrong)


def claim_that_nothing_is_permuted(patch):
    llama = next(family for family in PluginHost.load().families() if family.name == "llama")
    form = GgufForm(architecture="llama", flags={"ffn_up.bias": "mlp_bias"})
    patch.setattr(conversion, "find_form", lambda *_arguments: (llama, form))


def forget_the_offset_of_norms(patch):
    patch.setattr(plan._Planner, "_shaped", lambda self, name, shape, sources, **_kind: plan.Target(
        name=name, shape=shape, sources=sources
    ))  # fmt: skip


def write_the_first_rows_twice(patch):
    whole = values.read_rows
    patch.setattr(values, "CHUNK_ELEMENTS", 256)
    patch.setattr(values, "read_rows", lambda source, order: whole(source, order % max(1, len(order) // 2)))


def round_too_much(patch):
    whole = writer._write
    patch.setattr(writer, "_write", lambda stream, chunk: whole(stream, chunk.to(torch.float16).to(chunk.dtype)))


def lose_a_token(patch):
    whole = tokenizer._unsplit_tokens

    def renamed(*arguments):
        return {index: (token + "x", special) for index, (token, special) in whole(*arguments).items()}

    patch.setattr(tokenizer, "_unsplit_tokens", renamed)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "mutate", "error", "message"),
    [
        ("llama", None, None, ""),
        ("llama", drop_a_bias, GgufReadersDisagreeError, r"blk\.1\.attn_k\.bias is nowhere in the checkpoint"),
        ("llama", drop_frequency_factors, GgufReadersDisagreeError, "the model's RoPE is not that of the file's"),
        ("yarn", drop_scaling, GgufReadersDisagreeError, "the model's RoPE is not that of the file's"),
        ("yarn", drop_part_of_the_scaling, GgufReadersDisagreeError, "the model's RoPE is not that of the file's"),
        ("llama", forget_a_key, GgufAccountError, "llama.attention.layer_norm_rms_epsilon is"),
        ("gemma2", read_a_key_and_drop_it, GgufReadersDisagreeError, r"attn_logit_softcapping is 1\.5"),
        (
            "llama",
            swap_gate_and_up,
            GgufReadersDisagreeError,
            r"comes from blk\.0\.ffn_\w+\.weight, and the gguf package",
        ),
        (
            "llama",
            skip_the_permutation,
            GgufReadersDisagreeError,
            r"values of .*[qk]_proj.* are not those of blk\.0\.attn_[qk]",
        ),
        ("llama", permute_keys_by_the_number_of_queries, GgufReadersDisagreeError, r"values of .*k_proj"),
        ("llama", claim_that_nothing_is_permuted, GgufReadersDisagreeError, r"values of .*[qk]_proj"),
        ("gemma2", forget_the_offset_of_norms, GgufReadersDisagreeError, r"values of .*norm"),
        ("llama", write_the_first_rows_twice, GgufReadersDisagreeError, "values of "),
        ("llama", round_too_much, GgufReadersDisagreeError, "values of "),
        ("llama", lose_a_token, GgufConversionError, "its tokenizer would have '<s>', which is not among the"),
    ],
)
def test_mutated_conversion_is_refused(files, monkeypatch, report, name, mutate, error, message):
    if mutate is not None:
        mutate(monkeypatch)
    header = read_gguf(files[name])

    def convert():
        return converted_checkpoint(header, model_digest(header), PluginHost.load(), report)

    if error is None:
        assert convert().is_dir()
        return
    with pytest.raises(error, match=message):
        convert()
