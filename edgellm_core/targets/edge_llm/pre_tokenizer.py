"""Splits of a text in the words that the runtime's tokenizer knows: ``Split`` by regular expressions.

It passes over ``Digits`` and the regular expression inside ``ByteLevel``, and would merge across words.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.untrusted import read_json_object
from edgellm_core.untrusted.limits import TOKENIZER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

GPT2_WORDS: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The regular expression of ``ByteLevel`` with ``use_regex`` (``tokenizers``, GPT-2)."""

PROBES: Final = (
    "It's 12,345 ½ ² words;  they'll\n\n\tbe split... isn't IT? (x+=1)",
    "  naïve—“Straße” 東京は日本 مرحبا नमस्ते 👩‍💻\r\n",
)
"""Texts that the rewritten splits are tried on."""


def write_plain_splits(path: Path) -> None:
    """Rewrite tokenizer.json where the same splits can be said by ``Split`` alone; otherwise leave it.

    Args:
        path: the file; may be missing.
    """
    if not path.is_file():
        return
    stated = read_json_object(path, TOKENIZER)
    rewritten = plain_splits(stated)
    if rewritten is not None and _same_ids(stated, rewritten):
        path.write_text(json.dumps(rewritten, ensure_ascii=False, indent=2), encoding="utf-8")


def plain_splits(stated: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a tokenizer.json with the same splits by ``Split``; None where nothing has to change."""
    pre = stated.get("pre_tokenizer")
    if not isinstance(pre, dict):
        return None
    steps = pre["pretokenizers"] if pre.get("type") == "Sequence" else [pre]
    plain = [part for step in steps for part in _plain(step)]
    if plain == steps:
        return None
    rewritten = copy.deepcopy(dict(stated))
    rewritten["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": plain}
    return rewritten


def _plain(step: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if step.get("type") == "Digits":
        yield _split(r"\p{N}" if step.get("individual_digits") else r"\p{N}+")
    elif step.get("type") == "ByteLevel" and step.get("use_regex", True) and step.get("add_prefix_space") is False:
        yield _split(GPT2_WORDS)
        yield {**step, "use_regex": False}
    else:
        yield step


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _same_ids(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    from tokenizers import Tokenizer

    old, new = (Tokenizer.from_str(json.dumps(one)) for one in (before, after))
    return all(old.encode(text).ids == new.encode(text).ids for text in PROBES)
