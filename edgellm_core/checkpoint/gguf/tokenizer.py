"""Writes the tokenizer of a GGUF file as transformers would save it, with every token at its id.

transformers builds the vocabulary, merges and splits. What it leaves out or adds is mended here: control tokens that
are not spelled in the byte alphabet, special tokens that the file does not have, whole words that are looked up before
merging, the space in front of a text, and further chat templates.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.checkpoint.errors import GgufConversionError
from edgellm_core.checkpoint.gguf.metadata import architecture
from edgellm_core.untrusted import parse_json

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from edgellm_core.checkpoint.gguf.header import GgufHeader
    from edgellm_core.events import Reporter

SINGLE_DIGIT_SPLITS: Final = frozenset(
    {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
)
"""``tokenizer.ggml.pre`` of vocabularies that split every digit off before GPT-2's pattern.

Source: llama.cpp, ``src/llama-vocab.cpp``, the case of ``LLAMA_VOCAB_PRE_TYPE_SMOLLM``. transformers 5.23 gives these
GPT-2's pattern alone, which joins blanks before a digit differently.
"""

GPT2_SPLITS: Final = frozenset({"default", "gpt-2", "mpt", "olmo", "jais", "phi-2", "gigachat", "roberta-bpe"})
"""``tokenizer.ggml.pre`` of vocabularies with GPT-2's own pattern (``src/llama-vocab.cpp``)."""

WHOLE_WORDS: Final = frozenset(
    {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken"}
)
"""``tokenizer.ggml.pre`` of vocabularies in which a word that is a token is not merged (``ignore_merges``), and whose
texts begin with the first token unless the file says otherwise (``src/llama-vocab.cpp``)."""

CONTROL, USER_DEFINED = 3, 4
"""Values of ``tokenizer.ggml.token_type``: tokens that are never split, special ones and others."""

_SPECIAL: Final = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
"""Name in tokenizer_config.json → part of the name of the key with its id."""


def write_tokenizer(header: GgufHeader, directory: Path, report: Reporter) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat templates; nothing where the file has no tokenizer.

    Raises:
        GgufConversionError: a token would have another id, or would be lost.
        ValueError: transformers can't build a tokenizer of this kind.
    """
    if "tokenizer.ggml.tokens" not in header.array_lengths:
        report.note(f"'{header.file.name}' has no tokenizer, so the checkpoint has none.")
        return
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer, get_gguf_tokenizer

    name, vocabulary, settings = get_gguf_tokenizer(str(header.files[0]))
    fields = header.fields
    backend, _ = convert_gguf_tokenizer(name, vocabulary)
    tokens: list[str] = vocabulary["tokens"]
    kinds = vocabulary.get("token_type") or [1] * len(tokens)
    del vocabulary
    _mend_split(backend, fields, report)
    if fields.get("tokenizer.ggml.pre") in WHOLE_WORDS and fields.get("tokenizer.ggml.model") == "gpt2":
        backend.model.ignore_merges = True
        settings.setdefault("add_bos_token", True)
    special = {key: fields.get(f"tokenizer.ggml.{part}_token_id") for key, part in _SPECIAL.items()}
    unsplit = _unsplit_tokens(tokens, kinds, {index for index in special.values() if index is not None})
    if fields.get("tokenizer.ggml.model") != "gpt2":  # runs of blanks: the file has them as blanks, the vocabulary as ▁
        unsplit = {
            index: entry
            for index, entry in unsplit.items()
            if kinds[index] != USER_DEFINED or backend.id_to_token(index) == entry[0]
        }
    description = _Description(backend)
    description.mend_added_tokens(unsplit, backend)
    _mend_spaces(description.parts, fields)
    mended = Tokenizer.from_str(description.to_json())
    del backend, description
    _check_ids(header, mended, tokens, unsplit)
    settings["chat_template"] = _chat_templates(fields)
    names = {key: tokens[index] for key, index in special.items() if index is not None}
    tokenizer: Any = PreTrainedTokenizerFast
    made = tokenizer(tokenizer_object=mended, **{**dict.fromkeys(_SPECIAL), **settings, **names})
    made.save_pretrained(directory)
    _check_ids(header, Tokenizer.from_file(str(directory / "tokenizer.json")), tokens, unsplit)


class _Description:
    """A tokenizer as JSON. Its model, with all tokens and merges, stays text: as objects it would take 300 MB."""

    def __init__(self, backend: Any) -> None:
        text: str = backend.to_str()
        start = text.rindex('"model":{"type":')
        self.parts: dict[str, Any] = parse_json(text[:start] + '"model":null}', "tokenizer")
        self._model = text[start + len('"model":') : -1]

    def mend_added_tokens(self, unsplit: Mapping[int, tuple[str, bool]], backend: Any) -> None:
        """Make exactly the file's tokens that are never split such tokens, at their ids and as the file spells them."""
        spelled = {backend.id_to_token(index): token for index, (token, _special) in unsplit.items()}
        respelled = {found: token for found, token in spelled.items() if found not in {None, token}}
        if respelled:
            model = parse_json(self._model, "tokenizer")
            if isinstance(model["vocab"], dict):  # unigram has a list in the order of ids, and spells as the file does
                model["vocab"] = {respelled.get(token, token): index for token, index in model["vocab"].items()}
            self._model = json.dumps(model, ensure_ascii=False)
        self.parts["added_tokens"] = [
            {
                "id": index, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": special,
            }
            for index, (token, special) in sorted(unsplit.items())
        ]  # fmt: skip

    def to_json(self) -> str:
        """Return the whole description."""
        head = json.dumps({key: value for key, value in self.parts.items() if key != "model"}, ensure_ascii=False)
        return f'{head[:-1]}, "model": {self._model}}}'


def _unsplit_tokens(
    tokens: Sequence[str], kinds: Sequence[int], special: Collection[int]
) -> dict[int, tuple[str, bool]]:
    """Return id → token and whether it is special, of all tokens that a text is never split within."""
    return {
        index: (token, kind != USER_DEFINED or index in special)
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in {CONTROL, USER_DEFINED} or index in special
    }


def _mend_split(backend: Any, fields: Mapping[str, Any], report: Reporter) -> None:
    """Give a byte-level vocabulary its split where transformers does not know it."""
    from tokenizers import pre_tokenizers

    split = fields.get("tokenizer.ggml.pre", "default")
    if not isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel) or split in GPT2_SPLITS:
        return
    if split in SINGLE_DIGIT_SPLITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    else:
        report.note(f"transformers does not know the vocabulary split {split!r}; tokens may differ around digits.")


def _mend_spaces(description: dict[str, Any], fields: Mapping[str, Any]) -> None:
    """Put no space in front of a text where the file says so (``add_space_prefix``)."""
    if fields.get("tokenizer.ggml.add_space_prefix", True):
        return
    for part in ("pre_tokenizer", "decoder"):
        found = description.get(part) or {}
        for step in found.get("pretokenizers") or found.get("decoders") or [found]:
            if step.get("type") == "Metaspace":
                step["prepend_scheme"] = "never"
    steps = (description.get("normalizer") or {}).get("normalizers")
    if steps:
        description["normalizer"]["normalizers"] = [step for step in steps if step.get("type") != "Prepend"]
    decoder = (description.get("decoder") or {}).get("decoders")
    if decoder:
        description["decoder"]["decoders"] = [step for step in decoder if step.get("type") != "Strip"]


def _chat_templates(fields: Mapping[str, Any]) -> str | dict[str, str] | None:
    """Return the chat template, or all by name where there are several."""
    prefix = "tokenizer.chat_template"
    default: str | None = fields.get(prefix)
    others = {key.removeprefix(prefix + "."): value for key, value in fields.items() if key.startswith(prefix + ".")}
    if not others:
        return default
    return {"default": default, **others} if default is not None else others


def _check_ids(
    header: GgufHeader, tokenizer: Any, tokens: Sequence[str], unsplit: Mapping[int, tuple[str, bool]]
) -> None:
    """Refuse a tokenizer whose ids are not those of the file.

    Raises:
        GgufConversionError: with the first token that is lost, moved, or too much.
    """
    count = max(tokenizer.get_vocab_size(with_added_tokens=True), len(tokens))
    found = next((token for index in range(len(tokens), count + 1) if (token := tokenizer.id_to_token(index))), None)
    if found is not None:
        problem = f"its tokenizer would have {found!r}, which is not among the {len(tokens)} tokens"
        raise GgufConversionError(header.file, architecture(header), problem)
    lost = next((index for index in range(len(tokens)) if tokenizer.id_to_token(index) is None), None)
    if lost is not None and tokens.index(tokens[lost]) == lost:
        raise GgufConversionError(header.file, architecture(header), f"its token {tokens[lost]!r} would be lost")
    for index, (token, _special) in unsplit.items():
        found = tokenizer.token_to_id(token)
        if found != index and tokens.index(token) == index:
            problem = f"its token {token!r} would have id {found}, not {index}"
            raise GgufConversionError(header.file, architecture(header), problem)
