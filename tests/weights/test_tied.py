"""Two copies of a tied tensor must be equal."""

from __future__ import annotations

import pytest
import torch

from edgellm_core.weights import binder
from edgellm_core.weights.errors import TiedTensorsDifferError
from edgellm_core.weights.tied import require_equal_duplicates

TIED = {"lm_head.weight": "embed.weight"}


def test_equal_copies_and_single_members_pass(write_tensors):
    weight = torch.randn(50, 8)
    require_equal_duplicates(write_tensors({"lm_head.weight": weight, "embed.weight": weight.clone()}), TIED)
    require_equal_duplicates(write_tensors({"lm_head.weight": weight}), TIED)
    require_equal_duplicates(write_tensors({"other": weight}), TIED)


@pytest.mark.parametrize("change", ["value", "last value", "type", "shape"])
def test_different_copies_are_refused(write_tensors, change):
    weight = torch.randn(binder.CHUNK_BYTES // 32 + 5, 8)
    other = weight.clone()
    if change == "type":
        other = weight.half()
    elif change == "shape":
        other = weight[1:]
    else:
        other[-1 if change == "last value" else 0, 3] += 1
    with pytest.raises(TiedTensorsDifferError, match=r"ties 'lm_head.weight' to 'embed.weight'.*different values"):
        require_equal_duplicates(write_tensors({"lm_head.weight": weight, "embed.weight": other}), TIED)
