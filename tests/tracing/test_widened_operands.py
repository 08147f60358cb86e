"""The cast that a reduction asks for stands before it, whoever converts the program."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgellm_core.tracing.widened_operands import cast_operands

X = torch.tensor([[60000.0, 10.0, 0.001]], dtype=torch.float16)


class Called(nn.Module):
    def __init__(self, function):
        super().__init__()
        self._function = function

    def forward(self, x):
        return self._function(x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.softmax(x, -1, dtype=torch.float32),
        lambda x: nn.functional.log_softmax(x, dim=-1, dtype=torch.float32),
        lambda x: x.cumsum(-1, dtype=torch.float32),
        lambda x: x.sum(-1, dtype=torch.float32),
        lambda x: x.mean(-1, dtype=torch.float32),
    ],
)
def test_what_widens_its_operand_takes_a_cast_one(function):
    program = torch.export.export(Called(function), (X,))
    assert cast_operands(program.graph_module.graph) == 1
    assert cast_operands(program.graph_module.graph) == 0
    program.graph_module.recompile()
    torch.testing.assert_close(program.module()(X), function(X))


def test_other_operators_stay_as_they_are():
    program = torch.export.export(Called(lambda x: torch.softmax(x, -1) + (x > 0).sum(-1, keepdim=True)), (X,))
    assert cast_operands(program.graph_module.graph) == 0
