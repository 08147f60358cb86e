"""The acme family: Llama's layers under another name."""

from __future__ import annotations

from typing import Any, ClassVar

from edgellm_core.contract import ModelFamily


class AcmeFamily(ModelFamily):
    """A plain decoder with a chat template of its own."""

    name: ClassVar[str] = "acme"
    model_types: ClassVar[tuple[str, ...]] = ("acme",)
    architectures: ClassVar[tuple[str, ...]] = ("AcmeForCausalLM",)
    modeled_as: ClassVar[str] = "llama"

    def tiny_config(self) -> dict[str, Any]:
        """Return a small plain decoder."""
        return {
            "model_type": "acme", "architectures": ["AcmeForCausalLM"], "vocab_size": 131, "hidden_size": 96,
            "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2,
        }  # fmt: skip
