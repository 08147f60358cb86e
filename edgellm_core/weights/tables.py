"""Tables that lie in safetensors files of their own beside the graph."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from edgellm_core.weights.binder import ALIGNMENT, bind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgellm_core.checkpoint.tensors import TensorIndex
    from edgellm_core.events import Reporter
    from edgellm_core.weights.recipe import Recipe


def write_table(recipe: Recipe, tensors: TensorIndex, path: Path, report: Reporter) -> None:
    """Stream one tensor into a safetensors file; its name there is that of the file.

    Args:
        recipe: how it is made.
        tensors: the checkpoint.
        path: file to write, for example ``embedding.safetensors``.
        report: receives bytes written so far and in all.

    Raises:
        EdgellmError: as :func:`~edgellm_core.weights.binder.bind`.
    """
    named = dataclasses.replace(recipe, name=path.stem)
    header = table_header(named.name, named.element_type, named.shape, named.nbytes)
    bind([named], tensors, path, report=report, header=header)


def table_header(name: str, element_type: str, shape: Sequence[int], nbytes: int) -> bytes:
    """Return length and JSON header, padded with spaces so that the data begins at a page (safetensors' format)."""
    entry = {"dtype": element_type, "shape": list(shape), "data_offsets": [0, nbytes]}
    text = json.dumps({name: entry}, separators=(",", ":")).encode()
    size = -(-(8 + len(text)) // ALIGNMENT) * ALIGNMENT - 8
    return size.to_bytes(8, "little") + text.ljust(size)
