from __future__ import annotations

import numpy as np
import pytest

from edgellm_core.runtime.prefill import split_steps, step_size

IDS = np.arange(10).reshape(2, 5)
POSITIONS = IDS + 100
MASK = np.arange(16).reshape(2, 8)


@pytest.mark.parametrize(("shape", "size"), [(["batch", "seq"], None), (["batch", 1], 1), (["batch", None], None)])
def test_the_size_of_a_step_is_read_from_the_graph(shape, size):
    assert step_size(shape) == size


def test_any_number_of_tokens_is_one_step():
    (step,) = split_steps(IDS, MASK, POSITIONS, None)
    for found, expected in zip(step, (IDS, MASK, POSITIONS), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_tokens_are_fed_one_by_one_over_a_growing_mask():
    steps = list(split_steps(IDS, MASK, POSITIONS, 1))
    assert [step[0].tolist() for step in steps] == [[[i], [i + 5]] for i in range(5)]
    assert [step[2].tolist() for step in steps] == [[[i + 100], [i + 105]] for i in range(5)]
    for past, step in enumerate(steps, 3):
        np.testing.assert_array_equal(step[1], MASK[:, : past + 1])
