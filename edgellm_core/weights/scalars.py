"""Single numbers of a checkpoint that become attributes of the graph, read while it is lowered."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgellm_core.quantization.errors import QuantizedTensorMismatchError
from edgellm_core.weights.cast import BITS, as_float
from edgellm_core.weights.errors import NonFiniteWeightError, ScaleNotPositiveError
from edgellm_core.weights.reader import SourceFiles

if TYPE_CHECKING:
    from edgellm_core.checkpoint.tensors import TensorEntry


def read_scale(entry: TensorEntry) -> float:
    """Return a scale; a float32 holds it exactly.

    Args:
        entry: a tensor of one number, in F32, F16 or BF16.

    Raises:
        QuantizedTensorMismatchError: it is no single number of these types.
        NonFiniteWeightError: it is NaN or infinite.
        ScaleNotPositiveError: it is not above 0.
        TruncatedTensorError: the file of the checkpoint is too short.
        UnreadableFileError: the file of the checkpoint can't be read.
    """
    if entry.element_type not in BITS or math.prod(entry.shape) != 1:
        found = f"{entry.element_type} {list(entry.shape)}"
        raise QuantizedTensorMismatchError(entry.file.parent, entry.name, "one number in F32, F16 or BF16", found)
    stored = np.empty(entry.nbytes, np.uint8)
    with SourceFiles() as files:
        files.read_into(entry, 0, stored)
    value = as_float(int(stored.view(BITS[entry.element_type])[0]), entry.element_type)
    if not math.isfinite(value):
        raise NonFiniteWeightError(entry.name, 0, value, entry.file)
    if value <= 0:
        raise ScaleNotPositiveError(entry.name, value, entry.element_type)
    return value
