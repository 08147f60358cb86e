"""Numbers computed from constants, folded into the program; a quantile of the normal distribution is the example."""

from __future__ import annotations

import statistics

import pytest
import torch
from torch import nn

from edgellm_core.tracing.constant_numbers import fold_numbers

SHARE = 0.95
ERFINV = "aten.erfinv.default"


class Cutoff(nn.Module):
    """Cuts off below a quantile of the normal distribution, like the sparse MLP of Gemma 3n."""

    def forward(self, x):
        share = torch.tensor(SHARE, dtype=torch.float64)
        return torch.relu(x - torch.distributions.Normal(0.0, 1.0, validate_args=False).icdf(share))


class OfParameter(nn.Module):
    """The same operator on what a checkpoint brings."""

    def __init__(self):
        super().__init__()
        self.share = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return x + torch.erfinv(self.share)


class OfVector(nn.Module):
    """The same operator on more than one number."""

    def forward(self, x):
        return x + torch.erfinv(torch.tensor([0.1, 0.2])).sum()


class Written(nn.Module):
    """The same operator on a constant that something changed in place."""

    def forward(self, x):
        share = torch.tensor(0.5)
        share.mul_(0.5)
        return x + torch.erfinv(share)


class Random(nn.Module):
    """A number that is another one every time."""

    def forward(self, x):
        return x + torch.bernoulli(torch.tensor(0.5))


def exported(module):
    return torch.export.export(module.eval(), (torch.linspace(-3, 3, 7),), strict=False)


def operators_of(program):
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def test_a_number_is_computed_and_the_results_stay():
    program = exported(Cutoff())
    assert ERFINV in operators_of(program)
    fold_numbers(program, {"aten.sub.Tensor", "aten.mul.Tensor", "aten.add.Tensor", "aten.relu.default"})
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    assert ERFINV not in operators_of(program)
    x = torch.linspace(-3, 3, 7)
    expected = torch.relu(x - statistics.NormalDist().inv_cdf(SHARE))
    torch.testing.assert_close(program.module()(x), expected, check_dtype=False)


@pytest.mark.parametrize(
    ("module", "kept"),
    [(OfParameter, ERFINV), (OfVector, ERFINV), (Written, ERFINV), (Random, "aten.bernoulli.default")],
)
def test_what_is_no_constant_number_stays(module, kept):
    program = exported(module())
    fold_numbers(program, ())
    assert kept in operators_of(program)


def test_operators_that_can_be_converted_stay():
    program = exported(Cutoff())
    before = operators_of(program)
    fold_numbers(program, set(before))
    assert operators_of(program) == before
