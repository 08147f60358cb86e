"""The token ids that the runtime of TensorRT-Edge-LLM 0.11 makes of a text: it has a tokenizer of its own.

Followed from NVIDIA's public source (``cpp/tokenizer`` in github.com/NVIDIA/TensorRT-Edge-LLM, whose messages are those
in the libraries of the wheel 0.11.0). It reads tokenizer.json, and of it byte-pair models, ``Replace`` of
strings before and ``Split`` by regular expressions; everything else is passed over without an error. Pairs merge by the
id of what they make, but for models with ``byte_fallback``, whose merges it reads. No token is added in front.

Two things are simpler here: where added tokens overlap, the longest wins (there the order of a hash table), and regular
expressions are those of ``tokenizers`` (there ``std::regex`` over classes of characters).
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.runtime.errors import RuntimeTokenizerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

UNSUPPORTED: Final = ("Unigram", "WordPiece")
"""Kinds of models that it knows by name and can't encode with; any other name is taken for BPE."""

BEYOND_ECMASCRIPT: Final = re.compile(r"[?*+]\+|\{\d+,?\d*\}\+|\(\?[<>]")
"""What of a regular expression ``std::regex`` does not compile: possessive groups and quantifiers, lookbehind."""


class RuntimeTokenizer:
    """The tokenizer of one bundle."""

    def __init__(self, stated: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        """Read what the runtime reads.

        Args:
            stated: tokenizer.json.
            settings: tokenizer_config.json.

        Raises:
            RuntimeTokenizerError: the runtime does not load it.
        """
        model = stated.get("model")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        if not isinstance(model, dict) or not isinstance(vocabulary, dict) or not vocabulary:
            raise RuntimeTokenizerError("its model has no vocabulary with an id for each token")
        if model.get("type") in UNSUPPORTED:
            reason = f"it can't encode with a model of type {model['type']}"
            raise RuntimeTokenizerError(reason)
        self._byte_fallback = bool(model.get("byte_fallback", False))
        raw = str.encode if self._byte_fallback else _bytes_of
        self._ids = {raw(token): int(identifier) for token, identifier in vocabulary.items()}
        self._merges = _merges(model.get("merges")) if self._byte_fallback else {}
        self._added = {**_added(stated), **_added(settings)}
        self._replaced = list(_replacements(stated.get("normalizer")))
        self._splits = [_split(pattern) for pattern in _patterns(stated.get("pre_tokenizer"))]

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text.

        Raises:
            RuntimeTokenizerError: a part of the text has no token.
        """
        ids: list[int] = []
        for part in self._apart(text):
            if part in self._added:
                ids.append(self._added[part])
                continue
            pieces = [self._normalized(part)]
            for split in self._splits:
                pieces = [small for piece in pieces for small in split(piece)]
            ids += [identifier for piece in pieces for identifier in self._merged(piece)]
        return ids

    def _apart(self, text: str) -> list[str]:
        """Return the text in parts: added tokens, and what stands between them."""
        if not self._added:
            return [text] if text else []
        tokens = sorted(self._added, key=len, reverse=True)
        return [part for part in re.split(f"({'|'.join(map(re.escape, tokens))})", text) if part]

    def _normalized(self, text: str) -> str:
        for old, new in self._replaced:
            text = text.replace(old, new)
        return text

    def _merged(self, piece: str) -> Iterator[int]:
        """Yield the ids of one piece: itself, or its units after all merges."""
        whole = piece.encode()
        if whole in self._ids:
            yield self._ids[whole]
            return
        units = [char.encode() for char in piece] if self._merges else [bytes([byte]) for byte in whole]
        if len(units) < 2:
            return  # it looks a single unit up and drops it
        while (best := self._best_pair(units)) is not None:
            units[best : best + 2] = [units[best] + units[best + 1]]
        for unit in units:
            yield from self._looked_up(unit)

    def _best_pair(self, units: Sequence[bytes]) -> int | None:
        """Return where the pair that merges first begins; the leftmost of equal ones."""
        ranks = [(self._rank(left, right), at) for at, (left, right) in enumerate(itertools.pairwise(units))]
        found = [(rank, at) for rank, at in ranks if rank is not None]
        return min(found)[1] if found else None

    def _rank(self, left: bytes, right: bytes) -> int | None:
        return self._merges.get((left, right)) if self._merges else self._ids.get(left + right)

    def _looked_up(self, unit: bytes) -> Iterator[int]:
        if unit in self._ids:
            yield self._ids[unit]
            return
        names = [f"<0x{byte:02X}>".encode() for byte in unit] if self._byte_fallback else [unit]
        for name in names:
            if name not in self._ids:
                reason = f"no token of its vocabulary is {unit!r}"
                raise RuntimeTokenizerError(reason)
            yield self._ids[name]


def _bytes_of(token: str) -> bytes:
    """Return the bytes that a token of a byte-level vocabulary stands for (GPT-2's table)."""
    return b"".join(bytes([_BYTES[char]]) if char in _BYTES else char.encode() for char in token)


def _byte_table() -> dict[str, int]:
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + index): byte for index, byte in enumerate(hidden)}


_BYTES: Final = _byte_table()


def _merges(stated: Any) -> dict[tuple[bytes, bytes], int]:
    """Return the priority of each pair: ``"left right"``, or a list of both."""
    pairs = [entry.split(" ", 1) if isinstance(entry, str) else entry for entry in stated or []]
    return {(left.encode(), right.encode()): rank for rank, (left, right) in enumerate(pairs)}


def _added(file: Mapping[str, Any]) -> dict[str, int]:
    """Return the added tokens of either file; how each is to be stripped or normalized is not read."""
    listed = {entry["content"]: int(entry["id"]) for entry in file.get("added_tokens") or [] if entry.get("content")}
    decoder = file.get("added_tokens_decoder") or {}
    return listed | {entry["content"]: int(key) for key, entry in decoder.items() if entry.get("content")}


def _replacements(normalizer: Any) -> Iterator[tuple[str, str]]:
    """Yield what ``Replace`` by a string replaces, alone or in a sequence."""
    for step in _steps(normalizer, "normalizers"):
        pattern = step.get("pattern")
        if step.get("type") == "Replace" and isinstance(pattern, dict) and pattern.get("String"):
            yield pattern["String"], step.get("content", "")


def _patterns(pre_tokenizer: Any) -> Iterator[str]:
    """Yield the regular expressions of ``Split``."""
    for step in _steps(pre_tokenizer, "pretokenizers"):
        pattern = step.get("pattern")
        if step.get("type") == "Split" and isinstance(pattern, dict) and "Regex" in pattern:
            yield pattern["Regex"]


def _steps(stated: Any, key: str) -> list[Mapping[str, Any]]:
    if not isinstance(stated, dict):
        return []
    steps: list[Mapping[str, Any]] = stated.get(key, [stated])
    return steps


def _split(pattern: str) -> Callable[[str], list[str]]:
    """Return what cuts a text into the matches of a pattern and what stands between them.

    Raises:
        RuntimeTokenizerError: the runtime can't compile the pattern.
    """
    from tokenizers import Regex, pre_tokenizers

    if BEYOND_ECMASCRIPT.search(pattern):
        reason = f"it can't compile {pattern!r}"
        raise RuntimeTokenizerError(reason)
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return lambda text: [piece for piece, _ in split.pre_tokenize_str(text)]
