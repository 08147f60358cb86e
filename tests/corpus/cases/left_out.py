"""Tensors that are not in the graph: what transformers leaves out knowingly is told, all else is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from tests.corpus.case import Made, case
from tests.corpus.checkpoints import LLAMA, Tensors, edit_json, edit_tensors, llama

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZES: dict[str, Any] = {"vocab_size": 96, "bos_token_id": 1, "eos_token_id": 2}

GPT2 = SIZES | {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 32, "n_layer": 3, "n_head": 4,
    "n_positions": 64,
}  # fmt: skip

GPT_NEOX = SIZES | {
    "model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64,
}  # fmt: skip

GPTJ = SIZES | {
    "model_type": "gptj", "architectures": ["GPTJForCausalLM"], "n_embd": 32, "n_layer": 2, "n_head": 4,
    "rotary_dim": 4, "n_positions": 64, "tie_word_embeddings": False,
}  # fmt: skip

GPT_NEO = SIZES | {
    "model_type": "gpt_neo", "architectures": ["GPTNeoForCausalLM"], "hidden_size": 32, "num_layers": 2, "num_heads": 4,
    "attention_types": [[["global", "local"], 1]], "window_size": 16, "max_position_embeddings": 64,
    "intermediate_size": 48,
}  # fmt: skip

GLM4_MOE = SIZES | {
    "model_type": "glm4_moe", "architectures": ["Glm4MoeForCausalLM"], "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 46, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_shared_experts": 1, "first_k_dense_replace": 46,
    "max_position_embeddings": 64, "tie_word_embeddings": False, "num_nextn_predict_layers": 1,
}  # fmt: skip

DEEPSEEK_V3 = SIZES | {
    "model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16,
    "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "n_group": 1, "topk_group": 1, "moe_intermediate_size": 16, "first_k_dense_replace": 2,
    "max_position_embeddings": 64, "tie_word_embeddings": False, "num_nextn_predict_layers": 1,
}  # fmt: skip

QWEN3_NEXT = SIZES | {
    "model_type": "qwen3_5_text", "architectures": ["Qwen3_5ForCausalLM"], "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "layer_types": ["full_attention", "full_attention"], "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip

GEMMA3: dict[str, Any] = {
    "model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"],
    "text_config": {
        "model_type": "gemma3_text", "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "sliding_window": 64, "query_pre_attn_scalar": 8, "max_position_embeddings": 64,
    },
    "vision_config": {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14,
    },
    "mm_tokens_per_image": 4, "image_token_index": 90, "boi_token_index": 91, "eoi_token_index": 92,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def with_tensors(folder: Path, fields: dict[str, Any], add: Callable[[Tensors], Tensors]) -> Made:
    """Write a checkpoint and add tensors to it."""
    source = write_tiny_checkpoint(folder / "model", fields)
    edit_tensors(source, lambda tensors: tensors | add(tensors))
    return Made(source)


def masks(pattern: str, layers: int) -> Tensors:
    """Return the causal masks of layers."""
    return {pattern.format(layer): torch.ones(1, 1, 64, 64).tril() for layer in range(layers)}


def layer_of(tensors: Tensors, source: str, target: str) -> Tensors:
    """Return a copy of a layer under another name."""
    return {name.replace(source, target, 1): x for name, x in tensors.items() if name.startswith(source)}


def further(tensors: Tensors, source: str, target: str) -> Tensors:
    """Return a layer that predicts further tokens: a decoder layer with two norms and a projection before it."""
    extra = {"enorm.weight": torch.ones(32), "hnorm.weight": torch.ones(32), "eh_proj.weight": torch.ones(32, 64)}
    return layer_of(tensors, source, target) | {target + name: tensor for name, tensor in extra.items()}


@case(
    outcome="right", note="Left out: h.*.attn.bias (3 tensor(s), 49,152 bytes): transformers' GPT2LMHeadModel ignores"
)
def stored_masks(folder: Path) -> Made:
    """The causal masks that old GPT-2 checkpoints store, in a checkpoint of the model without its head."""
    source = write_tiny_checkpoint(folder / "model", GPT2)
    edit_tensors(
        source,
        lambda t: (
            {name.removeprefix("transformer."): x for name, x in t.items() if "lm_head" not in name}
            | masks("h.{}.attn.bias", 3)
        ),
    )
    return Made(source)


@case(outcome="right", note="Left out: gpt_neox.layers.*.attention.masked_bias (2 tensor(s)")
def stored_masks_of_gpt_neox(folder: Path) -> Made:
    """Masks, the score of what is masked, and rotary frequencies of each layer, as Pythia stores them."""

    def add(_tensors: Tensors) -> Tensors:
        layers = [f"gpt_neox.layers.{layer}.attention" for layer in range(2)]
        found = masks("gpt_neox.layers.{}.attention.bias", 2)
        found |= {f"{layer}.masked_bias": torch.tensor(-1e9) for layer in layers}
        return found | {f"{layer}.rotary_emb.inv_freq": torch.ones(1) for layer in layers}

    return with_tensors(folder, GPT_NEOX, add)


@case(outcome="right", note="Left out: transformer.h.*.attn.bias (2 tensor(s), 8,192 bytes): an attention mask that")
def stored_masks_of_gptj(folder: Path) -> Made:
    """Masks of GPT-J, which transformers drops although no list of it names them."""

    def add(_tensors: Tensors) -> Tensors:
        found = {name: mask.bool() for name, mask in masks("transformer.h.{}.attn.bias", 2).items()}
        return found | {f"transformer.h.{layer}.attn.masked_bias": torch.tensor(-1e9) for layer in range(2)}

    return with_tensors(folder, GPTJ, add)


@case(outcome="right", note="Left out: transformer.h.*.attn.attention.bias (2 tensor(s)")
def stored_masks_of_gpt_neo(folder: Path) -> Made:
    """Masks of GPT-Neo, one of them with a window."""
    return with_tensors(folder, GPT_NEO, lambda _t: masks("transformer.h.{}.attn.attention.bias", 2))


@case(outcome="refused", message="'transformer.h.0.attn.bias'")
def bias_where_a_mask_may_be(folder: Path) -> Made:
    """A bias under the name of a stored mask, in the shape of a bias."""
    return with_tensors(folder, GPTJ, lambda _t: {"transformer.h.0.attn.bias": torch.ones(32)})


@case(outcome="right", note="Left out: model.layers.*.self_attn.rotary_emb.* (2 tensor(s), 32 bytes)")
def stored_frequencies(folder: Path) -> Made:
    """Rotary frequencies that old Llama checkpoints store in each layer."""
    names = [f"model.layers.{layer}.self_attn.rotary_emb.inv_freq" for layer in range(2)]
    return with_tensors(folder, LLAMA, lambda _t: dict.fromkeys(names, torch.ones(4)))


@case(outcome="refused", message="'model.layers.0.self_attn.q_proj.bias'")
def bias_that_the_architecture_lacks(folder: Path) -> Made:
    """A bias that transformers drops with a warning, and that the model was trained with."""
    return with_tensors(folder, LLAMA, lambda _t: {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)})


@case(outcome="refused", message="'model.layers.0.self_attn.q_norm.weight'")
def norm_that_the_architecture_lacks(folder: Path) -> Made:
    """A norm of queries in a checkpoint whose config says Llama."""
    return with_tensors(folder, LLAMA, lambda _t: {"model.layers.0.self_attn.q_norm.weight": torch.ones(8)})


@case(outcome="right", note="Left out: model.layers.46.* (", new_tokens=4, lengths=(3, 12))
def further_layer_in_a_list(folder: Path) -> Made:
    """GLM-4.5-Air's layer 46, which predicts a further token and is in transformers' list."""
    return with_tensors(folder, GLM4_MOE, lambda t: further(t, "model.layers.45.", "model.layers.46."))


@case(outcome="refused", message="'model.layers.46.input_layernorm.weight'")
def decoder_layer_in_a_list(folder: Path) -> Made:
    """A decoder layer 46 behind the depth of the config, which transformers' list drops as if it predicted more."""
    return with_tensors(folder, GLM4_MOE, lambda t: layer_of(t, "model.layers.45.", "model.layers.46."))


@case(outcome="right", note="that predict further tokens")
def further_layer_in_the_config(folder: Path) -> Made:
    """A layer that predicts a further token, named by the config and by no list, in a DeepSeek of two layers."""
    return with_tensors(folder, DEEPSEEK_V3, lambda t: further(t, "model.layers.1.", "model.layers.2."))


@case(outcome="refused", message="'model.layers.3.")
def further_layers_beyond_the_config(folder: Path) -> Made:
    """Two layers behind the depth, of which the config names one."""

    def add(tensors: Tensors) -> Tensors:
        return further(tensors, "model.layers.1.", "model.layers.2.") | further(
            tensors, "model.layers.1.", "model.layers.3."
        )

    return with_tensors(folder, DEEPSEEK_V3, add)


@case(outcome="refused", message="'model.layers.2.input_layernorm.weight'")
def more_layers_than_the_config(folder: Path) -> Made:
    """A checkpoint of three layers whose config says two."""
    source = llama(folder, num_hidden_layers=3)
    edit_json(source / "config.json", num_hidden_layers=2)
    return Made(source)


@case(outcome="right", note="Left out: mtp.* (3 tensor(s)")
def further_layers_apart(folder: Path) -> Made:
    """Layers that predict further tokens and have names of their own, and a vision tower, as in Qwen3.5."""

    def add(_tensors: Tensors) -> Tensors:
        names = ["mtp.fc.weight", "mtp.layers.0.input_layernorm.weight", "mtp.norm.weight", "model.visual.pos.weight"]
        return dict.fromkeys(names, torch.ones(8))

    return with_tensors(folder, QWEN3_NEXT, add)


@case(outcome="right", note="Left out: vision_tower.* (")
def vision_tower(folder: Path) -> Made:
    """A Gemma 3 with its vision tower, of which the text decoder is built."""
    return Made(write_tiny_checkpoint(folder / "model", GEMMA3))


@case(outcome="refused", message="'vision_tower.blocks.0.weight'")
def vision_tower_beside_a_text_model(folder: Path) -> Made:
    """A vision tower in a checkpoint whose config says Llama and nothing of images."""
    return with_tensors(folder, LLAMA, lambda _t: {"vision_tower.blocks.0.weight": torch.ones(8, 8)})


@case(outcome="right", note="Left out: model.empty (1 tensor(s), 0 bytes): it holds no elements")
def tensor_without_elements(folder: Path) -> Made:
    """A tensor of no elements that the model does not know."""
    return with_tensors(folder, LLAMA, lambda _t: {"model.empty": torch.ones(0, 8)})


@case(outcome="refused", message="'model.norm.weight' has [0], not [32]")
def parameter_without_elements(folder: Path) -> Made:
    """A parameter of no elements, as a sharded training run saves what it did not gather."""
    return with_tensors(folder, LLAMA, lambda _t: {"model.norm.weight": torch.ones(0)})


@case(outcome="refused", message="holds parameter 'model.norm.weight' 2 times")
def parameter_under_two_names(folder: Path) -> Made:
    """A parameter that is held with the prefix of the model and without."""
    return with_tensors(folder, LLAMA, lambda _t: {"norm.weight": torch.ones(32)})
