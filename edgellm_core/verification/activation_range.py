"""Whether float16 can hold the original's activations, in one forward pass."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from edgellm_core.verification.range_watch import RangeWatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from edgellm_core.verification.range_watch import Peak


@contextlib.contextmanager
def watched_range(model: nn.Module, limit: float) -> Iterator[list[Peak]]:
    """Collect values beyond ``limit`` that the body's forward passes made, at its end, in order of execution."""
    watch = RangeWatch(limit)
    found: list[Peak] = []
    with watch.watching(model):
        yield found
    found += watch.excess
