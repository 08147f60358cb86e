"""The words of the matrix grammar: precisions, and one row for each token.

The tokens are those of TensorRT-Edge-LLM 0.5 (``tests/defs/config.py``). Its parser takes whatever it does not know for
the name of a test case, so a typo silently tests something else; here every part must be one of these words.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

PRECISIONS: Final = ("fp16", "fp32", "bf16", "fp8", "int8_sq", "int4_awq", "nvfp4", "mxfp8", "int4_gptq")
"""Precisions of weights; TensorRT-Edge-LLM's, and fp32 and bf16."""

METHODS: Final = ("input_aware", "frequency")
"""Methods of vocabulary reduction (TensorRT-Edge-LLM 0.5, ``reduce-vocab --method``)."""

LARGEST: Final = 999_999_999
"""Largest number in an entry; nine digits hold every size that a model has."""

Kind = Literal["flag", "number", "precision", "method", "draft"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """One kind of token.

    Attributes:
        name: what it starts with, and for a flag the whole token.
        field: attribute of :class:`~edgellm_core.matrix.entry.MatrixEntry` that holds its value.
        kind: what follows the name.
        meaning: what it asks for.
        feature: what the product has to have for it; empty where it has it.
        least: least number.
    """

    name: str
    field: str
    kind: Kind
    meaning: str
    feature: str = ""
    least: int = 1

    @property
    def form(self) -> str:
        """How it is written, with placeholders in capitals."""
        endings = {"flag": "", "number": "N", "precision": "PRECISION", "method": "NAME"}
        return "eagle-ID-PRECISION[-lmPRECISION]" if self.kind == "draft" else self.name + endings[self.kind]

    def read(self, part: str) -> int | str | bool | None:
        """Return the value that a part of an entry gives for this token; None if it is not of this token's form."""
        rest = part.removeprefix(self.name)
        if self.kind == "flag":
            return True if part == self.name else None
        if self.kind == "number":
            # isdecimal alone takes the digits of every script.
            canonical = (
                rest.isascii() and rest.isdecimal() and len(rest) <= len(str(LARGEST)) and str(int(rest)) == rest
            )
            return int(rest) if canonical and int(rest) >= self.least else None
        known = PRECISIONS if self.kind == "precision" else METHODS
        return rest if rest in known else None


def _row(name: str, field: str, kind: Kind, meaning: str, feature: str = "", least: int = 1) -> Token:
    return Token(name=name, field=field, kind=kind, meaning=meaning, feature=feature, least=least)


_LORA: Final = "LoRA adapters"
_EAGLE: Final = "EAGLE speculative decoding"
_VISION: Final = "a vision encoder"
_BENCHMARK: Final = "a benchmark of fixed shapes"
_VOCABULARY: Final = "vocabulary reduction"

TOKENS: Final[tuple[Token, ...]] = (
    _row("fp8kv", "fp8_kv_cache", "flag", "KV cache in FP8, with a precision that quantizes"),
    _row("mxsl", "max_seq_len", "number", "tokens of a sequence at most: capacity of the KV cache", least=2),
    _row("mxbs", "max_batch_size", "number", "sequences at once at most"),
    _row("mxil", "max_input_len", "number", "tokens of a prompt at most"),
    _row("lora", "lora", "flag", "LoRA adapters as inputs of the graph", _LORA),
    _row("merge_lora", "merge_lora", "flag", "a LoRA adapter merged into the weights", _LORA),
    _row("mxlr", "max_lora_rank", "number", "rank of a LoRA adapter at most", _LORA, least=0),
    _row("eagle", "eagle", "draft", "EAGLE draft model and its precision", _EAGLE),
    _row("mvts", "max_verify_tree_size", "number", "nodes of the tree that the base model verifies at most", _EAGLE),
    _row("mdts", "max_draft_tree_size", "number", "nodes of the tree that the draft model makes at most", _EAGLE),
    _row("edtk", "eagle_top_k", "number", "candidates a draft step", _EAGLE),
    _row("edst", "eagle_steps", "number", "draft steps", _EAGLE),
    _row("vit", "vision_precision", "precision", "precision of the vision encoder", _VISION),
    _row("mnit", "min_image_tokens", "number", "image tokens at least", _VISION, least=0),
    _row("mxit", "max_image_tokens", "number", "image tokens at most", _VISION),
    _row("mxpiit", "max_image_tokens_per_image", "number", "tokens of one image at most", _VISION),
    _row("rvs", "reduced_vocab_size", "number", "size of the reduced vocabulary", _VOCABULARY),
    _row("vrm", "vocab_reduction_method", "method", f"how words are chosen: {' or '.join(METHODS)}", _VOCABULARY),
    _row("vrms", "vocab_reduction_samples", "number", "samples that the choice is made from at most", _VOCABULARY),
    _row("bs", "batch_size", "number", "benchmark: sequences at once", _BENCHMARK),
    _row("isl", "input_len", "number", "benchmark: tokens of a prompt", _BENCHMARK),
    _row("osl", "output_len", "number", "benchmark: tokens to generate", _BENCHMARK),
    _row("ttl", "text_len", "number", "benchmark: text tokens of a prompt", _BENCHMARK, least=0),
    _row("itl", "image_len", "number", "benchmark: image tokens of a prompt", _BENCHMARK, least=0),
)
"""All tokens, in the order of the canonical text."""

BY_LENGTH: Final = tuple(sorted(TOKENS, key=lambda token: -len(token.name)))
"""Longest name first: ``vrms500`` is never taken for a method of ``vrm``."""


def explain_unknown(part: str) -> str:
    """Say which token is not one, and what was probably meant."""
    for token in BY_LENGTH:
        if token.kind != "flag" and part.startswith(token.name) and token.name != part:
            return f"unknown token {part!r}: {_requirement(token, part)}"
    stem, digits = part.rstrip("0123456789"), part[len(part.rstrip("0123456789")) :]
    written = {token.name + (digits if token.kind == "number" else ""): token for token in TOKENS}
    stems = {token.name: text for text, token in written.items()}
    near = difflib.get_close_matches(stem.lower(), stems, n=1) or difflib.get_close_matches(part.lower(), stems, n=1)
    if near:
        token = written[stems[near[0]]]
        meant = stems[near[0]] if token.kind == "flag" or (token.kind == "number" and digits) else token.form
        return f"unknown token {part!r}. Did you mean {meant!r}?"
    return f"unknown token {part!r}. Known: {', '.join(token.form for token in TOKENS)}."


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``Did you mean …?`` or the known names."""
    known = tuple(known)
    near = difflib.get_close_matches(name.lower(), known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."


def _requirement(token: Token, part: str) -> str:
    if token.kind == "number":
        return f"it must be {token.form} with a whole number N from {token.least} to {LARGEST}."
    if token.kind == "draft":
        return f"it must be {token.form}."
    known = PRECISIONS if token.kind == "precision" else METHODS
    return f"it must be {token.form}. {nearest(part.removeprefix(token.name), known)}"
