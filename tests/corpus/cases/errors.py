"""Checkpoints and settings that can't work, each with one sentence that says why."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from torch import zeros

from tests.corpus.case import Made, case
from tests.corpus.checkpoints import edit_json, llama

if TYPE_CHECKING:
    from pathlib import Path


def with_config(folder: Path, *, remove: tuple[str, ...] = (), **fields: Any) -> Made:
    """Write a small Llama and change its config.json afterwards."""
    source = llama(folder)
    edit_json(source / "config.json", remove=remove, **fields)
    return Made(source)


@case(outcome="refused", message="6 query heads and 4 key-value heads, so the original model itself can't run")
def heads_that_kv_heads_do_not_divide(folder: Path) -> Made:
    """Six query heads and four key-value heads."""
    return Made(llama(folder, hidden_size=48, num_attention_heads=6, num_key_value_heads=4, head_dim=8))


@case(outcome="refused", message="must have a multiple of its key-value heads", settings={"verify": "off"})
def heads_that_do_not_divide_unproved(folder: Path) -> Made:
    """The same without a comparison."""
    return Made(llama(folder, hidden_size=40, num_attention_heads=5, num_key_value_heads=2, head_dim=8))


@case(outcome="refused", values_only=True, message="itself can't run (transformers, float32): RuntimeError")
def original_that_stops(folder: Path) -> Made:
    """A window of no tokens, at which transformers' own forward raises."""
    return with_config(folder, sliding_window=0)


def adapter(folder: Path, **described: Any) -> Path:
    """Write the files of an adapter into a folder."""
    folder.mkdir(exist_ok=True)
    contents = {"peft_type": "LORA", "base_model_name_or_path": "meta-llama/Llama-3.2-1B", "r": 8} | described
    (folder / "adapter_config.json").write_text(json.dumps(contents))
    save_file({"base_model.model.lm_head.lora_A.weight": zeros(8, 4)}, folder / "adapter_model.safetensors")
    return folder


@case(outcome="refused", message="is a LoRA adapter of meta-llama/Llama-3.2-1B, no model. Merge it")
def adapter_folder(folder: Path) -> Made:
    """A LoRA adapter."""
    return Made(adapter(folder / "adapter"))


@case(outcome="refused", message="is a LoRA adapter of meta-llama/Llama-3.2-1B, no model. Merge it")
def adapter_with_config(folder: Path) -> Made:
    """A LoRA adapter with the base model's config.json beside it."""
    source = llama(folder)
    (source / "model.safetensors").unlink()
    return Made(adapter(source))


@case(outcome="refused", message="If model.safetensors holds the merged model already, remove adapter_config.json")
def adapter_with_weights(folder: Path) -> Made:
    """A LoRA adapter and whole weights in one folder."""
    return Made(adapter(llama(folder)))


@case(outcome="refused", message="is a PREFIX_TUNING adapter of another model, no model, and has no weights that could")
def adapter_of_prompts(folder: Path) -> Made:
    """An adapter that can't be merged, of a base model that it does not name."""
    return Made(adapter(folder / "adapter", peft_type="PREFIX_TUNING", base_model_name_or_path=None))


@case(outcome="refused", message="must have a name under 'model_type'; got []")
def model_type_of_a_list(folder: Path) -> Made:
    """A list where the type of the model should be."""
    return with_config(folder, model_type=[])


@case(outcome="refused", message="must have a number under 'max_position_embeddings'; got '2k'")
def context_in_words(folder: Path) -> Made:
    """A context length in words."""
    return with_config(folder, max_position_embeddings="2k")


@case(outcome="refused", message="must have a number of at least 0 under 'rms_norm_eps'; got '1e-5'")
def epsilon_in_words(folder: Path) -> Made:
    """A number in quotes."""
    return with_config(folder, rms_norm_eps="1e-5")


@case(outcome="refused", message="must have a number above 0 under 'rope_parameters.rope_theta'; got 0")
def rope_base_of_zero(folder: Path) -> Made:
    """A base of RoPE that every angle is divided by."""
    return with_config(folder, rope_parameters={"rope_type": "default", "rope_theta": 0})


@case(outcome="refused", message="under 'num_hidden_layers', since tensors of")
def a_billion_layers(folder: Path) -> Made:
    """Layers that have no tensors; each would cost memory before the first tensor is missed."""
    return with_config(folder, num_hidden_layers=10**9)


@case(outcome="refused", message="has 'swoosh' under 'hidden_act', which LlamaForCausalLM")
def unknown_activation(folder: Path) -> Made:
    """An activation that transformers' table lacks."""
    return with_config(folder, hidden_act="swoosh")


@case(outcome="refused", message="it is a link that leads to")
def link_to_a_file_outside(folder: Path) -> Made:
    """A tokenizer file that is a link to a file of the machine."""
    made = with_config(folder)
    (folder / "secret").write_text("secret", encoding="utf-8")
    (made.source / "vocab.txt").symlink_to(folder / "secret")
    return made


@case(outcome="refused", message="must have at least 1 under 'num_attention_heads'")
def no_heads(folder: Path) -> Made:
    """No attention heads, which transformers' config class divides by."""
    return with_config(folder, num_attention_heads=0)


@case(outcome="refused", message="must have an object under 'quantization_config'; got 'awq'")
def quantization_in_a_word(folder: Path) -> Made:
    """The name of a method where the settings of the quantization should be."""
    return with_config(folder, quantization_config="awq")


@case(outcome="refused", message="edgellm builds decoders with a language model head")
def another_kind_of_model(folder: Path) -> Made:
    """A model of images, for which no family helps."""
    return with_config(folder, model_type="vit", architectures=["ViTModel"])


@case(outcome="refused", message="Nearest families: 'llama'")
def unknown_model_type(folder: Path) -> Made:
    """A model type that transformers does not know."""
    return with_config(folder, model_type="lama", architectures=["LamaForCausalLM"])


@case(outcome="right", settings={"family": "llama"})
def unknown_model_type_as_a_family(folder: Path) -> Made:
    """The advice of the refusal, followed: another model type, treated as the family that it is near to."""
    made = with_config(folder, model_type="lama", architectures=["LamaForCausalLM"])
    return Made(made.source, llama(folder / "original"))
