"""Numbers of both sides are compared token by token, wherever a model puts its batch."""

from __future__ import annotations

import numpy as np
import pytest

from edgellm_core.verification.cases import Case, case_steps
from edgellm_core.verification.side_by_side import batch_first


@pytest.mark.parametrize("shape", [(2, 5, 7), (4, 2, 5, 7), (2, 5, 4, 7)], ids=["plain", "before", "behind"])
def test_streams_may_lie_before_the_batch(shape):
    case = Case(name="padded", prompts=(0, 1), rows=((1, 2, 3, 4, 5), (6, 7)), chunks=(5,))
    (inputs,) = case_steps(case)
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    found = batch_first(values, inputs)
    assert found.shape[:2] == inputs.input_ids.shape
    moved = np.moveaxis(values, 0, 2) if shape[0] == 4 else values
    np.testing.assert_array_equal(found, moved)
