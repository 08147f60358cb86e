"""Tiny random checkpoints with a tokenizer, written to disk the way real ones are."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from edgellm_core.checkpoint.family_code import register_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import torch

    from edgellm_core.contract import ModelFamily

WORDS = (
    "the", "capital", "of", "France", "is", "Paris", "and", "a", "model", "runs", "on", "small", "device",
    ",", ".", "?", "!", "hello", "world",
)  # fmt: skip


def write_tiny_checkpoint(
    directory: Path,
    config: Mapping[str, Any],
    *,
    dtype: str = "float32",
    seed: int = 0,
    max_shard_size: str = "50GB",
    tokenizer: bool = True,
    modeled_as: str = "",
) -> Path:
    """Write a random checkpoint of the architecture that ``config`` describes.

    Args:
        directory: folder to create.
        config: contents of a config.json, with ``model_type``.
        dtype: name of the torch element type of the weights.
        seed: seed of the random weights.
        max_shard_size: largest safetensors file; a small value writes several shards.
        tokenizer: also write a word-level tokenizer.json with a chat template.
        modeled_as: transformers' ``model_type`` that computes it, where transformers does not know the config's own.

    Returns:
        ``directory``.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = dict(config)
    torch.manual_seed(seed)
    model_type = str(fields.pop("model_type"))
    loaded: Any = AutoConfig.for_model(modeled_as or model_type, **fields)
    model: Any = AutoModelForCausalLM.from_config(loaded)
    randomize(model, seed)
    with _no_progress_bars():
        model.to(getattr(torch, dtype)).save_pretrained(directory, max_shard_size=max_shard_size)
    if tokenizer:
        write_tokenizer(directory, vocab_size=int(model.config.get_text_config().vocab_size))
    if modeled_as:
        path = directory / "config.json"
        saved = {**json.loads(path.read_text(encoding="utf-8")), "model_type": model_type}
        saved["architectures"] = config.get("architectures")
        path.write_text(json.dumps(saved, indent=2), encoding="utf-8")
    return directory


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Keep transformers' bars for saving off the terminal."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def write_family_checkpoint(directory: Path, family: ModelFamily, *, config: Mapping[str, Any] | None = None) -> Path:
    """Write a random float32 checkpoint of a family's tiny config, or of another config of the family.

    It has no chat template where the family brings one, so that a build has to fill it in.

    Args:
        directory: folder to create.
        family: the family.
        config: contents of config.json; None for ``family.tiny_config()``.

    Returns:
        ``directory``.

    Raises:
        PluginError: the family has no tiny config.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    register_model(family)
    stated = family.tiny_config() if config is None else config
    names = (str(stated.get("model_type")), family.modeled_as)
    modeled_as = next((name for name in names if name in CONFIG_MAPPING), "")
    write_tiny_checkpoint(directory, stated, modeled_as=modeled_as)
    path = directory / "tokenizer_config.json"
    if family.chat_template() is not None:
        settings = json.loads(path.read_text(encoding="utf-8"))
        del settings["chat_template"]
        path.write_text(json.dumps(settings, indent=2), encoding="utf-8")
    return directory


def randomize(model: torch.nn.Module, seed: int = 0) -> None:
    """Give every parameter values that matter: norms away from 1, biases away from 0, logits of order one."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    embeddings = {
        id(module.weight): float(getattr(module, "embed_scale", 1.0))  # transformers' name for a factor on the result
        for module in model.modules()
        if isinstance(module, torch.nn.Embedding)
    }
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() <= 1 or "norm" in name:
                parameter.add_(noise * 0.2)
            elif id(parameter) in embeddings:
                parameter.copy_(noise / embeddings[id(parameter)])
            else:
                parameter.copy_(noise * (1.3 / max(parameter.shape[-1], parameter.shape[-2]) ** 0.5))


def write_tokenizer(directory: Path, *, vocab_size: int) -> None:
    """Write a word-level tokenizer whose ids stay below ``vocab_size``, with ChatML markers and a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = ["<unk>", "<s>", "</s>"]
    words = [*special, *dict.fromkeys(WORDS)]
    words += [f"w{index}" for index in range(vocab_size - len(words))]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(special)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>",
        "chat_template": "{% for m in messages %}{{ m['content'] }} {% endfor %}",
    }  # fmt: skip
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
