"""At which length transformers' ``generate`` forgets its cache and reads everything again, found by asking it.

LongRoPE models have one table of frequencies for short sequences and one for long ones. Keys that were cached under
the short table are wrong under the long one, so ``prepare_inputs_for_generation`` of Phi-3 drops the cache where an
answer passes the switch. No name of a model or of a config key decides here: the model's own function is called with
lengths on both sides, without weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import torch
from transformers import DynamicCache

from edgellm_core.checkpoint.dimensions import context_length
from edgellm_core.tracing.errors import UntraceableModelError
from edgellm_core.tracing.probe import cache_argument
from edgellm_core.tracing.template import Reread

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedModel

LONGEST: Final = 2**24
"""Longest sequence that is asked about; ids on the meta device take no memory."""


class _Past(DynamicCache):
    """A cache that says it holds a number of tokens."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length

    def __len__(self) -> int:
        return 1  # models test whether there is a cache by its truth

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of tokens that it was made with."""
        del layer_idx
        return self._length


def find_reread(model: PreTrainedModel) -> Reread | None:
    """Return where the model's ``generate`` drops its cache; None where it never does within the model's context.

    Args:
        model: a model without weights, or with them; not run.

    Raises:
        UntraceableModelError: it reads everything again at every token after some length.
    """
    longest = min(LONGEST, max((2, *_integers(model.config.to_dict()))) + 2)
    context = context_length(model.config)
    if context is not None and context > 2:
        longest = min(longest, context)
    if not _drops(model, longest, past=1) or _drops(model, 2, past=1):
        return None  # a model that never uses a cache computes the same without one
    shorter, length = 2, longest
    while length - shorter > 1:
        middle = (shorter + length) // 2
        if _drops(model, middle, past=1):
            length = middle
        else:
            shorter = middle
    if _drops(model, length + 1, past=length):
        reason = f"its generate reads everything again at every token from {length} tokens on, which no runtime does"
        raise UntraceableModelError(type(model).__name__, reason)
    inputs = _prepared(model, length, past=length - 1)
    return Reread(length, loses_context=inputs["input_ids"].shape[-1] != length)


def _drops(model: PreTrainedModel, length: int, *, past: int) -> bool:
    inputs = _prepared(model, length, past=past)
    return bool(inputs) and inputs.get(cache_argument(model)) is None


def _prepared(model: PreTrainedModel, length: int, *, past: int) -> Mapping[str, Any]:
    """Return what the model makes of one more token after ``past``; nothing where it can't be asked so."""
    ids = torch.zeros(1, length, dtype=torch.long, device="meta")
    cache = {cache_argument(model): _Past(past)}
    prepare: Any = model.prepare_inputs_for_generation
    try:
        prepared = prepare(ids, next_sequence_length=1, use_cache=True, **cache)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, NotImplementedError):  # an own protocol
        return {}
    return prepared if isinstance(prepared, Mapping) else {}


def _integers(value: Any) -> Iterable[int]:
    """Yield all whole numbers of a config, at any depth of it."""
    if isinstance(value, bool):
        return
    if isinstance(value, int):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _integers(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _integers(part)
