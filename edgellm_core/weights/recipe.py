"""How one initializer of the graph is made from tensors of the checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgellm_core.settings import ELEMENT_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Each source is cast to ``element_type``, optionally transposed, and appended along axis 0.

    A stack ``[n, rows, …]`` is its parts ``[rows, …]`` appended: both lie in memory alike.

    Attributes:
        name: name of the initializer in the graph.
        element_type: element type of the initializer in safetensors' spelling, for example ``F16``.
        shape: dimensions of the initializer; ``()`` for a scalar.
        sources: names of checkpoint tensors, in the order in which they are appended.
        transpose: swap the two axes of every source before appending; all sources then have two dimensions.
    """

    name: str
    element_type: str
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    transpose: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the initializer, without padding."""
        return math.prod(self.shape) * ELEMENT_BYTES[self.element_type]
