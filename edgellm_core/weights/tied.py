"""Checks that tensors which the model shares really are equal in the checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgellm_core.weights.binder import CHUNK_BYTES
from edgellm_core.weights.errors import TiedTensorsDifferError
from edgellm_core.weights.reader import RowMajorStream, SourceFiles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgellm_core.checkpoint.tensors import TensorEntry, TensorIndex


def require_equal_duplicates(tensors: TensorIndex, tied: Mapping[str, str]) -> None:
    """Refuse a checkpoint that holds both of two tied tensors with different bytes.

    transformers does not tie them then (5.23, ``PreTrainedModel.tie_weights``), so the traced graph, which knows no
    values and has them tied, would be wrong. Most checkpoints hold only one of them, and nothing is read.

    Args:
        tensors: the checkpoint.
        tied: name of a parameter → name of the one whose storage it shares.

    Raises:
        TiedTensorsDifferError: two tensors differ.
        TruncatedTensorError: a file of the checkpoint is too short.
        UnreadableFileError: a file of the checkpoint can't be read.
    """
    with SourceFiles() as files:
        for alias, canonical in tied.items():
            if alias in tensors and canonical in tensors and not _equal(files, tensors[alias], tensors[canonical]):
                raise TiedTensorsDifferError(alias, canonical)


def _equal(files: SourceFiles, first: TensorEntry, second: TensorEntry) -> bool:
    if (first.element_type, first.shape) != (second.element_type, second.shape):
        return False
    streams = RowMajorStream(files, first), RowMajorStream(files, second)
    buffers = np.empty((2, CHUNK_BYTES), np.uint8)
    for start in range(0, first.nbytes, CHUNK_BYTES):
        count = min(CHUNK_BYTES, first.nbytes - start)
        for stream, buffer in zip(streams, buffers, strict=True):
            stream.read_into(buffer[:count])
        if not np.array_equal(buffers[0, :count], buffers[1, :count]):
            return False
    return True
