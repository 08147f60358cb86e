"""What transformers makes of a config.json: the parameters of its model, and how it rotates; no weights are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOutline:
    """A model without weights.

    Attributes:
        config: transformers' config.
        shapes: name and shape of every parameter and stored buffer that is not tied to another.
        frequencies: RoPE's inverse frequencies [pairs], and the factor on cosine and sine. The key is empty, or the
            kind of layers that they belong to; ``long`` for the second table of LongRoPE.
    """

    config: Any
    shapes: Mapping[str, tuple[int, ...]]
    frequencies: Mapping[str, tuple[torch.Tensor, float]]


def outline_model(directory: Path) -> ModelOutline:
    """Build the model of ``directory/config.json`` without weights."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(directory)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    tied = set(getattr(model, "_tied_weights_keys", None) or ()) if config.tie_word_embeddings else set()
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in tied}
    return ModelOutline(config=config, shapes=shapes, frequencies=_frequencies(model, config))


def _frequencies(model: Any, config: Any) -> dict[str, tuple[torch.Tensor, float]]:
    """Return the frequencies that the model's rotary module computes from the config."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    found: dict[str, tuple[torch.Tensor, float]] = {}
    modules = [module for name, module in model.named_modules() if name.rpartition(".")[2] == "rotary_emb"]
    if not modules:
        return found
    rotary: Any = type(modules[0])(config)  # once more, with numbers
    for name, value in rotary.named_buffers():
        if not name.endswith("inv_freq") or "original" in name:
            continue
        kind = name.removesuffix("inv_freq").rstrip("_")
        prefix = f"{kind}_" if kind else ""
        found[kind] = (value, float(getattr(rotary, f"{prefix}attention_scaling")))
        rope_type = rotary.rope_type[kind] if kind else rotary.rope_type
        if rope_type == "longrope":
            original = config.rope_parameters["original_max_position_embeddings"]
            long, scaling = ROPE_INIT_FUNCTIONS["longrope"](config, value.device, seq_len=original + 1)
            found[f"{kind}long"] = (long, float(scaling))
    return found
