"""GGUF files: what they state in keys and tensors of their own is in the bundle, or the build is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import torch

from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from tests.corpus.case import Made, case
from tests.corpus.checkpoints import LLAMA, edit_tensors
from tests.gguf_writing import write_gguf

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


def model(folder: Path, change: Callable[..., None] | None = None, *, kind: str = "llama", **fields: Any) -> Made:
    """Write a small model, and the GGUF file of it."""
    parts, kinds = fields.pop("parts", 1), fields.pop("kinds", None)
    config = LLAMA | {"model_type": kind} | fields
    config.pop("architectures")
    original = write_tiny_checkpoint(folder / "original", config, tokenizer=False)
    return Made(write_gguf(folder / "model.gguf", original, change=change, parts=parts, kinds=kinds), original)


@case(outcome="right", note="rope_freqs.weight", lengths=(3, 120))
def llama31_rope_freqs(folder: Path) -> Made:
    """The frequencies of Llama 3.1, which only the tensor rope_freqs says."""
    return model(folder, rope_parameters=LLAMA3, head_dim=32)


@case(outcome="right", note="rope_freqs.weight", lengths=(3, 40))
def rope_freqs_of_no_known_rule(folder: Path) -> Made:
    """Divisors of RoPE's frequencies that are not Llama 3's: a table of them."""
    factors = [1.0, 1.5, 3.0, 4.0]
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": factors, "long_factor": factors,
        "attention_factor": 1.0, "original_max_position_embeddings": 256,
    }  # fmt: skip

    def one_table(_fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        del arrays["rope_factors_short.weight"]
        arrays["rope_freqs.weight"] = arrays.pop("rope_factors_long.weight")
        for key in ("rope.scaling.original_context_length", "rope.scaling.attn_factor"):
            _fields.pop(key)

    return model(folder, one_table, rope_parameters=rope)


@case(outcome="right", note="rope.scaling.type", lengths=(3, 60))
def yarn_qwen2(folder: Path) -> Made:
    """YaRN in the keys of a Qwen2."""
    return model(folder, kind="qwen2", rope_parameters=YARN)


@case(outcome="right", note="rope.scaling.yarn_attn_factor", lengths=(3, 60))
def yarn_with_every_key(folder: Path) -> Made:
    """YaRN with a ramp and a factor of its own."""

    def state(fields: dict[str, Any], _arrays: dict[str, np.ndarray]) -> None:
        fields |= {"rope.scaling.yarn_beta_fast": 16.0, "rope.scaling.yarn_beta_slow": 2.0}
        fields["rope.scaling.yarn_attn_factor"] = 0.8

    rope = YARN | {"beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 0.8}
    return model(folder, state, kind="qwen2", rope_parameters=rope)


@case(outcome="right", note="rope.scaling.factor", lengths=(3, 60))
def linear_gemma3(folder: Path) -> Made:
    """Gemma 3 of 4 B and more: linear scaling on the layers without a window only."""
    return model(
        folder, kind="gemma3_text", sliding_window=5, head_dim=8, query_pre_attn_scalar=8, tie_word_embeddings=True,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        },
    )  # fmt: skip


@case(outcome="right", note="attn_q.bias")
def attention_biases(folder: Path) -> Made:
    """A Llama whose attention has biases, permuted as its weights are."""
    return model(folder, attention_bias=True)


@case(outcome="right", note="zero is written")
def biases_without_that_of_the_output(folder: Path) -> Made:
    """Biases of queries, keys and values alone, which transformers' Llama has no word for."""

    def drop(_fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        for name in [name for name in arrays if name.endswith("attn_output.bias")]:
            del arrays[name]

    made = model(folder, drop, attention_bias=True)

    def zero(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value * 0 if name.endswith("o_proj.bias") else value for name, value in tensors.items()}

    edit_tensors(made.original, zero)
    return made


@case(outcome="right", note="transformers does not read GGUF architecture 'granite'")
def granite_scales(folder: Path) -> Made:
    """Four multipliers of Granite."""
    return model(
        folder, kind="granite", embedding_multiplier=3.0, attention_multiplier=0.6, residual_multiplier=0.7,
        logits_scaling=2.0,
    )  # fmt: skip


@case(outcome="right")
def split_file(folder: Path) -> Made:
    """A model in several files, named by its last."""
    made = model(folder, parts=3)
    return Made(max(folder.glob("model-*.gguf")), made.original)


@case(outcome="right", settings={"precision": "fp32"}, tolerance=2e-3, new_tokens=0)
def quantized_blocks(folder: Path) -> Made:
    """Q8_0, Q5_1 and Q4_0 blocks; the original holds what they mean."""
    kinds = {
        r"blk\.\d+\.attn_[qk]\.weight": gguf.GGMLQuantizationType.Q8_0,
        r"blk\.\d+\.attn_(v|output)\.weight": gguf.GGMLQuantizationType.Q5_1,
        r"blk\.\d+\.ffn_(gate|up)\.weight": gguf.GGMLQuantizationType.Q4_0,
    }
    made = model(folder, kinds=kinds)

    def rounded(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        places = {"q_proj": "Q8_0", "k_proj": "Q8_0", "v_proj": "Q5_1", "o_proj": "Q5_1", "gate": "Q4_0", "up_": "Q4_0"}
        for name, value in tensors.items():
            kind = next((found for part, found in places.items() if part in name), None)
            if kind is not None:
                number = gguf.GGMLQuantizationType[kind]
                meant = gguf.dequantize(gguf.quantize(value.numpy(), number), number)
                tensors[name] = torch.from_numpy(meant).half().float()
        return tensors

    edit_tensors(made.original, rounded)
    return made


@case(outcome="right")
def mixtral_with_a_tensor_for_each_expert(folder: Path) -> Made:
    """Mixtral files of before April 2024."""

    def apart(_fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        for name in [name for name in arrays if "_exps." in name]:
            for expert, value in enumerate(arrays.pop(name)):
                arrays[name.replace("_exps.", f".{expert}.")] = value

    return model(folder, apart, kind="mixtral", num_local_experts=3, num_experts_per_tok=2)


@case(outcome="refused", message="llama.attention.temperature_length is 8192")
def unknown_key(folder: Path) -> Made:
    """A key of the architecture that nothing is known about."""
    return model(folder, lambda fields, _arrays: fields.update({"attention.temperature_length": 8192}))


@case(outcome="refused", message="llama.attention.sliding_window is 64")
def window_that_the_family_lacks(folder: Path) -> Made:
    """A window in a family that has none."""
    return model(folder, lambda fields, _arrays: fields.update({"attention.sliding_window": 64}))


@case(outcome="refused", message="llama.attention.head_count_kv is [2, 4]")
def heads_that_differ_from_layer_to_layer(folder: Path) -> Made:
    """A number of heads for each layer."""
    return model(folder, lambda fields, _arrays: fields.update({"attention.head_count_kv": [2, 4]}))


@case(outcome="refused", message="nothing is known about its tensor blk.0.attn_sinks.weight")
def unknown_tensor(folder: Path) -> Made:
    """A tensor that the family does not have."""

    def more(_fields: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        arrays["blk.0.attn_sinks.weight"] = np.ones(4, np.float32)

    return model(folder, more)


@case(outcome="refused", message="it lacks model.layers.1.self_attn.k_proj.weight")
def missing_tensor(folder: Path) -> Made:
    """A tensor that the model needs is not there."""
    return model(folder, lambda _fields, arrays: arrays.pop("blk.1.attn_k.weight"))


@case(outcome="refused", message="2 of them are missing: model-00002-of-00003.gguf, model-00003-of-00003.gguf")
def missing_part(folder: Path) -> Made:
    """One file of a model that was split."""
    made = model(folder, parts=3)
    for part in sorted(folder.glob("model-*.gguf"))[1:]:
        part.unlink()
    return made


@case(outcome="refused", message="which no family reads")
def architecture_that_no_family_reads(folder: Path) -> Made:
    """A state space model."""
    made = model(folder)
    made.source.write_bytes(made.source.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0rwkv7", 1))
    return made
