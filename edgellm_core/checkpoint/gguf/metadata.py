"""The metadata of a GGUF file, handed out key by key, so that what nobody asked for is known in the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgellm_core.checkpoint.errors import CorruptGgufError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgellm_core.checkpoint.gguf.header import GgufHeader

NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.shared_kv_layers": (0,),
    "attention.sliding_window": (0,),
    "attn_logit_softcapping": (0,),
    "embedding_scale": (1,),
    "expert_count": (0,),
    "expert_shared_count": (0,),
    "expert_used_count": (0,),
    "expert_weights_scale": (0, 1),
    "final_logit_softcapping": (0,),
    "leading_dense_block_count": (0,),
    "logit_scale": (1,),
    "nextn_predict_layers": (0,),
    "pooling_type": (0,),
    "residual_scale": (1,),
    "rope.scaling.finetuned": (True, False),
    "router_logit_softcapping": (0,),
    "tensor_data_layout": ("Meta AI original pth", "reference"),
    "use_parallel_residual": (False,),
}
"""Metadata key → values with which it says what every decoder does; with others it has to be understood."""


def architecture(header: GgufHeader) -> str:
    """Return ``general.architecture``.

    Raises:
        CorruptGgufError: the file has none.
    """
    value = header.fields.get("general.architecture")
    if not isinstance(value, str) or not value:
        raise CorruptGgufError(header.file, "it has no general.architecture")
    return value


def stop_tokens(header: GgufHeader) -> list[int]:
    """Return the ids that end an answer: end of sequence, of turn and of message, each once."""
    keys = ("eos_token_id", "eot_token_id", "eom_token_id")
    values = [header.fields.get(f"tokenizer.ggml.{key}") for key in keys]
    return list(dict.fromkeys(value for value in values if isinstance(value, int)))


class Metadata:
    """The keys of the architecture.

    Attributes:
        findings: sentences without a subject about what can't be read; empty when everything is accounted for.
    """

    def __init__(self, header: GgufHeader) -> None:
        self._prefix = architecture(header) + "."
        self._fields = header.fields
        self._left = {
            key.removeprefix(self._prefix)
            for key in (*header.fields, *header.array_lengths)
            if key.startswith(self._prefix)
        }
        self.findings: list[str] = []

    def __contains__(self, key: str) -> bool:
        """Say whether the file has the key ``<architecture>.<key>``."""
        return self._prefix + key in self._fields

    def take(self, key: str, default: Any = None) -> Any:
        """Return the value of ``<architecture>.<key>``; it is accounted for then."""
        self._left.discard(key)
        return self._fields.get(self._prefix + key, default)

    def take_number(self, key: str, default: Any = None) -> Any:
        """Return one number; one for each layer is a finding unless they are all equal."""
        value = self.take(key, default)
        if isinstance(value, list):
            if len(set(value)) != 1:
                self.refuse(key, value)
                return max(value, default=default)
            value = value[0]
        if value is not None and not isinstance(value, int | float):
            self.refuse(key, value)
            return default
        return value

    def refuse(self, key: str, value: Any) -> None:
        """Note that the value of a key is not understood."""
        self.findings.append(f"{self._prefix}{key} is {_shown(value)}, which changes the math in a way not known")

    def finish(self) -> None:
        """Note every key that nobody asked for, unless its value is neutral."""
        for key in sorted(self._left):
            value = self._fields.get(self._prefix + key, "a long list")
            if value not in NEUTRAL.get(key, ()):
                self.refuse(key, value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
