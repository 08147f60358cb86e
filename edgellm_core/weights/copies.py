"""Checks on bytes: what a checkpoint holds twice must be equal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgellm_core.checkpoint.errors import DifferingCopiesError
from edgellm_core.settings import ELEMENT_BYTES
from edgellm_core.weights.binder import CHUNK_BYTES
from edgellm_core.weights.cast import can_cast, converted, one_torch_thread
from edgellm_core.weights.errors import TiedTensorsDifferError
from edgellm_core.weights.reader import RowMajorStream, SourceFiles

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgellm_core.checkpoint.tensors import TensorEntry, TensorIndex
    from edgellm_core.weights.accounting import TiedPair


def require_equal_files(duplicates: Iterable[tuple[TensorEntry, TensorEntry]]) -> None:
    """Refuse tensors of the same name that lie in two files with different bytes.

    Args:
        duplicates: both places of each, of equal types and shapes.

    Raises:
        DifferingCopiesError: two differ.
        TruncatedTensorError: a file of the checkpoint is too short.
        UnreadableFileError: a file of the checkpoint can't be read.
    """
    with SourceFiles() as files:
        for first, second in duplicates:
            if not _equal(files, first, second, first.element_type):
                raise DifferingCopiesError(first.name, second.file, first.file)


def require_equal_ties(tensors: TensorIndex, pairs: Iterable[TiedPair]) -> None:
    """Refuse a checkpoint that holds two tensors of one parameter with different values.

    transformers does not tie them then (5.23, ``PreTrainedModel.tie_weights``), so the traced graph, which knows no
    values and has them tied, would be wrong. They are compared in the type of the graph, as transformers compares what
    it has cast. Most checkpoints hold only one of them, and nothing is read.

    Args:
        tensors: the checkpoint.
        pairs: what must be equal.

    Raises:
        TiedTensorsDifferError: two tensors differ.
        TruncatedTensorError: a file of the checkpoint is too short.
        UnreadableFileError: a file of the checkpoint can't be read.
    """
    with SourceFiles() as files, one_torch_thread():
        for first, second, element_type in pairs:
            if not _equal(files, tensors[first], tensors[second], element_type):
                raise TiedTensorsDifferError(second, first)


def _equal(files: SourceFiles, first: TensorEntry, second: TensorEntry, element_type: str) -> bool:
    entries = (first, second)
    alike = first.element_type == second.element_type
    if first.shape != second.shape or not (alike or all(can_cast(e.element_type, element_type) for e in entries)):
        return False
    streams = [RowMajorStream(files, entry) for entry in entries]
    sizes = [ELEMENT_BYTES[entry.element_type] for entry in entries]
    step = CHUNK_BYTES // max(sizes)
    count = first.nbytes // sizes[0]
    for start in range(0, count, step):
        taken = min(step, count - start)
        raw = [np.empty(taken * size, np.uint8) for size in sizes]
        for stream, buffer in zip(streams, raw, strict=True):
            stream.read_into(buffer)
        values = (
            raw if alike else [converted(b, e.element_type, element_type) for b, e in zip(raw, entries, strict=True)]
        )
        if not np.array_equal(*values):
            return False
    return True
