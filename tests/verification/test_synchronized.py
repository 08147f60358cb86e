"""Numbers of graph and original at a rounding, position by position."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgellm_core.verification.synchronized import Synchronizer

REAL = np.array([[False, True], [True, True]])
GRAPHS = np.arange(1, 13, dtype=np.float32)


@pytest.mark.parametrize(
    ("shape", "axis"), [((2, 2, 3), 1), ((4, 3), 1), ((2, 3, 2), 2)], ids=["batch", "list of tokens", "heads first"]
)
@pytest.mark.parametrize(("position", "differing"), [((0, 0), 0), ((1, 0), 1)], ids=["padding", "token"])
def test_only_real_positions_are_counted(shape, axis, position, differing):
    synchronizer = Synchronizer(points={"layer": "rounded"})
    synchronizer.begin({"rounded": GRAPHS}, REAL)
    own = torch.from_numpy(GRAPHS.copy()).reshape(shape)
    tokens = own.unflatten(0, (2, 2)) if len(shape) == 2 else own.movedim(axis, 1)
    tokens[position][0] += 1
    settled = synchronizer.settle("layer", own, sequence_axis=axis)
    assert torch.equal(settled, torch.from_numpy(GRAPHS).reshape(shape))
    counts = synchronizer.counts["layer"]
    assert (counts.differing, counts.total) == (differing, 9)
