"""How the GGUF files of one family are written: what a family says about its ``general.architecture``.

Keys and tensors that most decoders share are in ``edgellm_core.checkpoint.gguf``; a family states what it adds or
does otherwise. Sources: llama.cpp, ``conversion/*.py`` (what is written) and ``src/llama-model.cpp`` (what it means).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufForm:
    """How one architecture of GGUF files maps to a family.

    ``{n}`` stands for the number of a layer, ``{e}`` for that of an expert or a head.

    Attributes:
        architecture: value of ``general.architecture``.
        experts: whether these are the files with experts, where dense and sparse models share an architecture.
        keys: metadata keys behind ``<architecture>.`` → keys of config.json, beside the common ones; an empty string
            marks a key that is known not to change the math, or that ``complete_gguf_config`` reads.
        required: metadata keys behind ``<architecture>.`` without which the math is not known.
        implied: entries of config.json that the architecture means without stating them.
        stated: metadata keys behind ``<architecture>.`` → the only value that the family computes.
        bias_flag: boolean key of config.json that says whether attention has biases; empty where none is needed.
        flags: tensors, for example ``attn_q_norm`` → boolean key of config.json that says whether layer 0 has them.
        tensors: names of tensors → names in the checkpoint, beside the common ones; both behind the layer's prefix.
            With ``{e}`` on the right only, the first dimension is taken apart. A suffix that both lack is carried over.
        interleaved: names in the checkpoint → two stacked tensors whose rows take turns in it.
        renamed: parts of names in transformers' code → what checkpoints have instead.
        transposed: names in the checkpoint whose last two dimensions are swapped.
        paired_rows: tensors whose rows of one head were reordered from two halves to pairs; llama.cpp's ``permute``.
        norm_offset: number that was added to the weights of norms.
        partial_rotary: whether only the first ``rope.dimension_count`` numbers of a head may be rotated.
        sliding_rope: whether layers with a window rotate with ``rope.freq_base_swa`` (10,000 unless stated), unscaled.
        yarn_truncates: whether the bounds of YaRN's ramp are rounded to whole pairs.
        window_period: one layer of so many has no window, the last; 0 where layers are not told apart.
    """

    architecture: str
    experts: bool = False
    keys: Mapping[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    implied: Mapping[str, Any] = field(default_factory=dict)
    stated: Mapping[str, Any] = field(default_factory=dict)
    bias_flag: str = "attention_bias"
    flags: Mapping[str, str] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=dict)
    interleaved: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    transposed: tuple[str, ...] = ()
    paired_rows: tuple[str, ...] = ()
    norm_offset: float = 0.0
    partial_rotary: bool = False
    sliding_rope: bool = False
    yarn_truncates: bool = True
    window_period: int = 0
