"""Proves that the mask of an attention is causality, a window and padding: it is computed, for several sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_graphsurgeon as gs

from edgellm_core.targets.edge_llm.imported.errors import MaskNotProvenError, NotComputableError
from edgellm_core.targets.edge_llm.imported.evaluation import Array, evaluate, nodes_before
from edgellm_core.targets.edge_llm.imported.interface import Case

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgellm_core.targets.edge_llm.imported.interface import Interface

Floats = np.ndarray[Any, np.dtype[np.float64]]

_CASES: Final = ((5, 0), (4, 3), (1, 6))
"""New tokens and tokens in the cache."""

_HIDES: Final = -1e4
"""Numbers at or below it hide a key: exp of it is 0 in float32, whatever is added to it in float16."""

LONGEST: Final = {True: 1 << 20, False: (1 << 12) + 16}
"""Whether there is a cache → longest sequence for which a mask is computed: two rows of it, or all."""


def prove_mask(node: gs.Node, interface: Interface) -> int:
    """Return the window of an attention, 0 for none.

    Args:
        node: the ``edgellm::Attention``.
        interface: inputs of the graph.

    Raises:
        MaskNotProvenError: its mask does something else, or can't be computed.
    """
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    if mask is None or mask.is_empty():
        raise MaskNotProvenError(node.name, "does not exist: each token would see later ones")
    cases = list(_cases(mask, node, interface))
    values = [_additive(_computed([mask], case, node, interface)[0]) for case in cases]
    window = _window(values[-1], cases[-1])
    for case, value in zip(cases, values, strict=True):
        _check(value, case, window, node)
    return window


def _additive(mask: Array) -> Floats:
    """Return a mask as numbers to add; a boolean one says which keys are seen."""
    if mask.dtype == np.bool_:
        return np.where(mask, 0.0, -np.inf)
    return mask.astype(np.float64)


def prove_guard(condition: gs.Tensor, kept: bool, node: gs.Node, interface: Interface) -> None:
    """Refuse a condition that replaces the output of an attention for a real token.

    Args:
        condition: chooses between output and zero, ``[batch, 1, seq, 1]``.
        kept: its value where the output stays.
        node: the attention.
        interface: inputs of the graph.

    Raises:
        MaskNotProvenError: it does, or can't be computed.
    """
    for case in _plain_cases(interface):
        value = _computed([condition], case, node, interface)[0]
        rows = np.broadcast_to(value, (len(case.padding), 1, case.seq, 1))[:, 0, :, 0]
        if np.any((rows != kept) & case.mask[:, case.past :]):
            raise MaskNotProvenError(node.name, "sets the output of real tokens to zero")


def _computed(tensors: Sequence[gs.Tensor], case: Case, node: gs.Node, interface: Interface) -> list[Array]:
    try:
        return evaluate(tensors, case, interface)
    except NotComputableError as error:
        raise MaskNotProvenError(node.name, f"depends on more than sizes, mask and positions ({error})") from error


def _plain_cases(interface: Interface) -> Iterator[Case]:
    padded = interface.mask is not None
    for seq, past in _CASES:
        yield Case(seq=seq, past=past if interface.has_cache else 0, padding=(0, 2) if padded and seq > 2 else (0, 0))


def _cases(mask: gs.Tensor, node: gs.Node, interface: Interface) -> Iterator[Case]:
    """Yield sizes; the last one is longer than any window that a constant of the mask could be."""
    yield from _plain_cases(interface)
    longest = max(_constants(mask, node, interface), default=0)
    limit = LONGEST[interface.has_cache]
    if longest + 4 > limit:
        raise MaskNotProvenError(node.name, f"has a constant of {longest}, and is computed up to {limit} tokens")
    if interface.has_cache:
        yield Case(seq=2, past=longest + 4)
    else:
        yield Case(seq=longest + 4)


def _constants(mask: gs.Tensor, node: gs.Node, interface: Interface) -> Iterator[int]:
    """Yield the sizes that constants of a mask name: numbers that may be windows, and axes of tables."""
    try:
        nodes = nodes_before(mask, interface)
    except NotComputableError as error:
        raise MaskNotProvenError(node.name, f"depends on more than sizes, mask and positions ({error})") from error
    for one in nodes:
        for tensor in one.inputs:
            if isinstance(tensor, gs.Constant):
                numbers = np.asarray(tensor.values).reshape(-1).astype(np.float64)
                if np.issubdtype(tensor.values.dtype, np.floating):
                    numbers = numbers[numbers > _HIDES]
                numbers = np.abs(numbers[np.isfinite(numbers)])
                yield from map(int, numbers[(numbers < _UNBOUNDED) & (numbers == np.floor(numbers))])
                yield from (int(size) for size in tensor.values.shape)


_UNBOUNDED: Final = 1 << 30
"""Ends of slices lie beyond."""


def _window(value: Floats, case: Case) -> int:
    """Return how many keys the last token sees, 0 for all of them."""
    row = np.broadcast_to(value, (1, 1, case.seq, case.past + case.seq))[0, 0, -1]
    seen = int((row > _HIDES).sum())
    return 0 if seen == len(row) else seen


def _check(value: Floats, case: Case, window: int, node: gs.Node) -> None:
    """Compare a mask with causality, a window and padding, for real tokens."""
    batch, length = len(case.padding), case.past + case.seq
    try:
        given = np.broadcast_to(value, (batch, 1, case.seq, length))[:, 0]
    except ValueError:
        raise MaskNotProvenError(node.name, f"has the shape {list(value.shape)} for {case}") from None
    query, key = np.arange(case.past, length)[:, None], np.arange(length)
    seen = (key <= query) & (key > query - window if window else True) & case.mask[:, None, :]
    real = case.mask[:, case.past :, None]
    if np.any(real & seen & (given != 0.0)):
        raise MaskNotProvenError(node.name, "hides, or adds numbers to, keys that causality and a window show")
    if np.any(real & ~seen & (given > _HIDES)):
        raise MaskNotProvenError(node.name, "shows keys that causality, a window and padding hide")
