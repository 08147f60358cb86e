"""Which numbers of a config are widths, and how a twin shrinks them; lengths and flags stay as they are."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Fields = dict[str, Any]

HEADS: Final = frozenset(
    {
        "num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads", "swa_num_attention_heads",
        "linear_num_heads",
    }
)  # fmt: skip
"""Numbers of query heads, as transformers' config classes spell them."""

KV_HEADS: Final = frozenset({"num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads", "kv_n_heads"})
"""Numbers of key and value heads."""

HIDDEN: Final = frozenset({"hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "lru_width"})
"""Widths of the residual."""

HEAD_WIDTHS: Final = frozenset({"head_dim", "swa_head_dim", "kv_channels", "query_pre_attn_scalar"})
"""Widths of one head, and the scale that follows them."""

FREE: Final[Mapping[str, int]] = {
    "intermediate_size": 96, "n_inner": 96, "ffn_dim": 96, "ffn_hidden_size": 96, "expert_ffn_hidden_size": 48,
    "decoder_ffn_dim": 96, "dff": 96, "moe_intermediate_size": 48, "shared_expert_intermediate_size": 48,
    "shared_intermediate_size": 48, "shared_experts_intermediate_size": 48, "dense_intermediate_size": 96,
    "intermediate_size_mlp": 96, "moe_shared_expert_intermediate_size": 48, "hidden_size_per_layer_input": 16,
    "kv_lora_rank": 32, "q_lora_rank": 48, "o_lora_rank": 32, "index_n_heads": 8, "gated_norm_rank": 16,
    "laurel_rank": 8, "d_rel": 8, "mamba_dt_rank": 8, "time_step_rank": 8,
}  # fmt: skip
"""Widths that no other number has to fit → their size in a twin."""

VOCABULARIES: Final = frozenset({"vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size"})
VOCABULARY: Final = 160
"""Tokens of a twin."""

EXPERTS: Final = frozenset({"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"})
"""Numbers of experts; those that are chosen, and groups, stay."""

CHOSEN: Final = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "moe_top_k", "top_k_experts")
GROUPS: Final = ("n_group", "num_expert_group")

PROPORTIONAL: Final = frozenset(
    {
        *HIDDEN, *HEADS, "mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "linear_num_key_heads",
        "linear_num_value_heads", "attention_hidden_size", "mamba_d_ssm", "mamba_intermediate", "hc_lowrank",
    }
)  # fmt: skip
"""Widths that depend on each other in state-space and hybrid models: divided by one number there."""

TOKEN_IDS: Final = "_token_id"
SMALL_HEAD: Final = 32
"""Width of a twin's heads where they can be shrunk."""
SMALL_HIDDEN: Final = 96


@dataclass(frozen=True, kw_only=True, slots=True)
class Shrinking:
    """One way of shrinking.

    Attributes:
        head: width of a head; None keeps it.
        free_hidden: the residual's width need not be that of all heads together.
        divisor: divides all widths that depend on each other; 0 for head counts instead.
    """

    head: int | None
    free_hidden: bool
    divisor: int = 0


WAYS: Final = (
    Shrinking(head=SMALL_HEAD, free_hidden=True),
    Shrinking(head=SMALL_HEAD, free_hidden=False),
    Shrinking(head=None, free_hidden=True),
    Shrinking(head=None, free_hidden=False),
    *(Shrinking(head=None, free_hidden=False, divisor=divisor) for divisor in (32, 16, 8, 4, 2)),
    Shrinking(head=None, free_hidden=False, divisor=1),
)
"""From the smallest twin to the largest; the first that transformers itself builds and runs is taken."""


def shrunk(fields: Mapping[str, Any], way: Shrinking) -> Fields:
    """Return a config with its widths shrunk.

    Args:
        fields: contents of a config.json with every key.
        way: how.
    """
    result = copy.deepcopy(dict(fields))
    for part in parts(result):
        _shrink_part(part, way)
    return result


def parts(fields: Fields) -> Iterator[Fields]:
    """Yield a config and every part of it that is one, outermost first."""
    yield fields
    for value in fields.values():
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            yield from parts(value)


def _shrink_part(part: Fields, way: Shrinking) -> None:
    before = dict(part)
    for key, value in before.items():
        if key.endswith(TOKEN_IDS):
            part[key] = _token_id(value)
        elif key in VOCABULARIES and _is_size(value):
            part[key] = min(value, VOCABULARY)
        elif key in FREE and isinstance(value, list) and all(map(_is_size, value)):
            part[key] = [min(one, FREE[key]) for one in value]
        elif key in FREE and _is_size(value):
            part[key] = min(value, FREE[key])
        elif key in EXPERTS and _is_size(value):
            part[key] = _experts(value, before)
    if way.divisor:
        _divide(part, way.divisor)
    else:
        _shrink_heads(part, before, way)


def _divide(part: Fields, divisor: int) -> None:
    heads = [part[key] for key in (*HEADS, *KV_HEADS) if _is_size(part.get(key))]
    kept = frozenset() if all(one % divisor == 0 for one in heads) else KV_HEADS | HEADS
    for key in sorted((PROPORTIONAL | KV_HEADS) - kept):
        if _is_size(part.get(key)) and part[key] % divisor == 0:
            part[key] //= divisor


def _shrink_heads(part: Fields, before: Fields, way: Shrinking) -> None:
    heads = next((before[key] for key in sorted(HEADS) if _is_size(before.get(key))), None)
    hidden = next((before[key] for key in sorted(HIDDEN) if _is_size(before.get(key))), None)
    if heads is None:
        return
    stated = next((before[key] for key in sorted(HEAD_WIDTHS) if _is_size(before.get(key))), None)
    width = stated or (hidden // heads if hidden else SMALL_HEAD)
    small = min(width, way.head or width)
    kv_heads = next((before[key] for key in sorted(KV_HEADS) if _is_size(before.get(key), least=1)), heads)
    count, kv_count = fewer_heads(heads, kv_heads)
    for key, value in before.items():
        if key in HEADS and _is_size(value):
            part[key] = count
        elif key in KV_HEADS and _is_size(value, least=1):
            part[key] = kv_count
        elif key in HIDDEN and _is_size(value):
            part[key] = min(value, SMALL_HIDDEN) if way.free_hidden else count * small
        elif key in HEAD_WIDTHS and _is_size(value):
            part[key] = max(2, value * small // width)
    _scale_rotary(part, width, small)


def fewer_heads(heads: int, kv_heads: int) -> tuple[int, int]:
    """Return few query and key heads in the same ratio, of at most 8: two key heads, or one where there is one."""
    if heads % kv_heads:
        return heads, kv_heads
    ratio = min(heads // kv_heads, 8)
    few = min(kv_heads, 2 if ratio > 1 else 4)
    return ratio * few, few


def _scale_rotary(part: Fields, width: int, small: int) -> None:
    """Fit what is stated for each rotated channel to the new width of a head."""
    if small == width:
        return
    for owner in parts(part):
        for key, value in owner.items():
            if key == "rotary_dim" and _is_size(value):
                owner[key] = value * small // width
            elif isinstance(value, list) and key.endswith("_factor"):
                owner[key] = value[:: width // small] if width % small == 0 else value
            elif key == "mrope_section" and isinstance(value, list):
                owner[key] = [one * small // width for one in value]


def _experts(count: int, part: Mapping[str, Any]) -> int:
    chosen = max((part[key] for key in CHOSEN if _is_size(part.get(key), least=1)), default=1)
    groups = max((part[key] for key in GROUPS if _is_size(part.get(key), least=1)), default=1)
    fewest = max(chosen + 2, 2 * groups, 4)
    return min(count, -(-fewest // groups) * groups)


def _token_id(value: Any) -> Any:
    if isinstance(value, list):
        return [_token_id(one) for one in value]
    return value % VOCABULARY if isinstance(value, int) and value >= VOCABULARY else value


def _is_size(value: Any, *, least: int = 2) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
