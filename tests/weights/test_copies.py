"""What a checkpoint holds twice must be equal: tied tensors in the type of the graph, tensors of two files in bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from edgellm_core.checkpoint.errors import DifferingCopiesError
from edgellm_core.weights import binder
from edgellm_core.weights.accounting import TiedPair
from edgellm_core.weights.copies import require_equal_files, require_equal_ties
from edgellm_core.weights.errors import TiedTensorsDifferError


def pair(element_type="F32"):
    return [TiedPair("embed.weight", "lm_head.weight", element_type)]


def tied(write_tensors, embedding, head, element_type="F32"):
    require_equal_ties(write_tensors({"embed.weight": embedding, "lm_head.weight": head}), pair(element_type))


def test_equal_copies_pass(write_tensors):
    weight = torch.randn(50, 8)
    tied(write_tensors, weight, weight.clone())


@pytest.mark.parametrize("change", ["value", "last value", "shape"])
def test_different_copies_are_refused(write_tensors, change):
    weight = torch.randn(binder.CHUNK_BYTES // 32 + 5, 8)
    other = weight.clone()
    if change == "shape":
        other = weight[1:]
    else:
        other[-1 if change == "last value" else 0, 3] += 1
    with pytest.raises(TiedTensorsDifferError, match=r"ties 'lm_head.weight' to 'embed.weight'.*different values"):
        tied(write_tensors, weight, other)


@pytest.mark.parametrize("other", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("element_type", ["F32", "F16", "BF16"])
def test_equal_values_of_another_type_pass(write_tensors, other, element_type):
    weight = torch.randint(-64, 64, (binder.CHUNK_BYTES // 32 + 5, 8)).float()
    tied(write_tensors, weight, weight.to(other), element_type)
    tied(write_tensors, weight.to(other), weight, element_type)


def test_copies_are_equal_in_the_type_of_the_graph_alone(write_tensors):
    weight = torch.randn(50, 8)
    tied(write_tensors, weight, weight.bfloat16(), "BF16")
    for element_type in ("F32", "F16"):
        with pytest.raises(TiedTensorsDifferError, match="different values"):
            tied(write_tensors, weight, weight.bfloat16(), element_type)


def test_a_type_without_a_cast_is_not_equal(write_tensors):
    weight = torch.ones(4, 4)
    with pytest.raises(TiedTensorsDifferError, match="different values"):
        tied(write_tensors, weight, weight.to(torch.float8_e4m3fn))


def test_tensors_of_two_files(write_tensors):
    weight = torch.randn(50, 8)
    first, second = (next(iter(write_tensors({"norm": value}).values())) for value in (weight, weight.clone()))
    require_equal_files([(first, second)])
    other = next(iter(write_tensors({"norm": weight + 1}).values()))
    match = rf"'norm' lies in {other.file.name} and in {first.file.name}, and the two differ\. Remove the wrong"
    with pytest.raises(DifferingCopiesError, match=match):
        require_equal_files([(first, other)])
    with pytest.raises(DifferingCopiesError, match="two differ"):
        require_equal_files([(first, replace(second, offset=second.offset - 4))])
