"""What of a checkpoint is not in the graph: why each tensor is left out, and how that is told."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from edgellm_core.checkpoint.tensors import TensorEntry, TensorIndex

NO_ELEMENTS: Final = "it holds no elements"
STORED_MASK: Final = "an attention mask that older versions of transformers stored; the model makes its own"
NOT_READ: Final = "the model does not read it for token ids alone"

STORED_MASKS: Final = re.compile(
    r"(?:.*\.)?(?:attn|attention|self_attn|self_attention)\.(bias|masked_bias|causal_mask)"
)
"""Buffers of transformers 4: the causal mask of GPT-2, GPT-J, GPT-Neo (and its windows), GPT-NeoX and CodeGen, and the
score of what is masked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """Tensors of a checkpoint that are not in the graph, for one reason.

    Attributes:
        pattern: what their names have in common; ``*`` stands for any number, at the end for anything.
        tensors: how many they are.
        bytes: bytes that they take in the checkpoint.
        why: the reason, as the rest of a sentence.
    """

    pattern: str
    tensors: int
    bytes: int
    why: str

    def __str__(self) -> str:
        """Return a sentence."""
        size = f"{self.bytes / 1e6:.1f} MB" if self.bytes >= 1e5 else f"{self.bytes:,} bytes"
        return f"Left out: {self.pattern} ({self.tensors} tensor(s), {size}): {self.why}."


def reason_to_leave_out(entry: TensorEntry, known: Mapping[str, str], ignored: Sequence[str], family: str) -> str:
    """Return why a tensor that no parameter takes may be left out; empty where nothing says so.

    transformers' lists come first, then rules of loading, then the family.

    Args:
        entry: the tensor.
        known: tensors that transformers knowingly leaves out, and why.
        ignored: regular expressions (full match) of the family.
        family: its name.
    """
    module = entry.name.rpartition(".")[0]
    if why := known.get(entry.name) or known.get(f"{module}.weight"):  # scales of a quantized weight go with it
        return why
    if not math.prod(entry.shape):
        return NO_ELEMENTS
    if is_stored_mask(entry):
        return STORED_MASK
    named = any(re.fullmatch(pattern, entry.name) for pattern in ignored)
    return f"family {family!r} ignores it" if named else ""


def is_stored_mask(entry: TensorEntry) -> bool:
    """Say whether a tensor is an attention mask by its name and shape: ``[1, 1, n, n]``, or one number."""
    found = STORED_MASKS.fullmatch(entry.name)
    if not found:
        return False
    if found[1] == "masked_bias":
        return math.prod(entry.shape) == 1
    return len(entry.shape) == 4 and entry.shape[:2] == (1, 1) and entry.shape[2] == entry.shape[3] > 1


def grouped(reasons: Mapping[str, str], tensors: TensorIndex) -> list[LeftOut]:
    """Return tensors that are left out in groups of one pattern and reason, in the order of their patterns.

    A pattern ends where no tensor that is kept shares it: ``model.vision_tower.*``, ``h.*.attn.bias``.

    Args:
        reasons: name of each of them, and why.
        tensors: all tensors of the checkpoint.
    """
    shared = _beginnings(name.split(".") for name in tensors if name not in reasons)
    groups: dict[tuple[str, str], list[str]] = {}
    for name, why in reasons.items():
        groups.setdefault((_pattern(name.split("."), shared), why), []).append(name)
    return [
        LeftOut(pattern=pattern, tensors=len(names), bytes=sum(tensors[name].nbytes for name in names), why=why)
        for (pattern, why), names in sorted(groups.items())
    ]


def _beginnings(names: Iterable[Sequence[str]]) -> set[tuple[str, ...]]:
    """Return all beginnings of names in parts, also with layers as ``*``."""
    found: set[tuple[str, ...]] = set()
    for parts in names:
        for count in range(len(parts) + 1):
            found |= {tuple(parts[:count]), _any_layer(parts[:count])}
    return found


def _any_layer(parts: Sequence[str]) -> tuple[str, ...]:
    """Return parts of a name with numbers in front of the last one as ``*``."""
    return (*("*" if part.isdigit() else part for part in parts[:-1]), *parts[-1:])


def _pattern(parts: Sequence[str], shared: Collection[tuple[str, ...]]) -> str:
    """Return the shortest beginning of a name that no kept tensor has, of any layer where none has that either."""
    counts = range(1, len(parts) + 1)
    own = next((count for count in counts if tuple(parts[:count]) not in shared), len(parts))
    beginning = tuple(parts[:own])
    general = _any_layer(beginning)
    return ".".join([*(beginning if general in shared else general), *(["*"] if own < len(parts) else [])])
