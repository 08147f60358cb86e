"""The nova family: a decoder whose modeling code lies in this pack."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily


class NovaFamily(ModelFamily):
    """Attention and feed-forward side by side, each through a gate that is learned."""

    name: ClassVar[str] = "nova"
    model_types: ClassVar[tuple[str, ...]] = ("nova",)
    architectures: ClassVar[tuple[str, ...]] = ("NovaForCausalLM",)

    def register_model(self) -> None:
        """Register the pack's own classes with transformers."""
        from transformers import AutoConfig, AutoModelForCausalLM

        from .modeling_nova import NovaConfig, NovaForCausalLM

        AutoConfig.register("nova", NovaConfig)
        AutoModelForCausalLM.register(NovaConfig, NovaForCausalLM)

    def tiny_config(self) -> dict[str, Any]:
        """Return a small one with grouped heads."""
        return {
            "model_type": "nova", "architectures": ["NovaForCausalLM"], "vocab_size": 131, "hidden_size": 96,
            "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
            "max_position_embeddings": 512, "squash": 3.0,
        }  # fmt: skip
