"""Norms are recognised by their numbers: every kind, epsilon and weight mode, and none of the near misses."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from edgellm_core.tracing import operators
from edgellm_core.tracing.norms import NormKind, classify_norm, recorded_norms

WIDTH = 24
EPSILONS = [1e-8, 1e-6, 1e-5, 1e-3, 0.1]


class Norm(nn.Module):
    """RMS norm with hooks for what near misses change."""

    def __init__(self, shape=(WIDTH,), eps=1e-6, name="weight"):
        super().__init__()
        self.eps = eps
        self.shape = shape
        self.register_parameter(name, nn.Parameter(torch.ones(shape)))

    def forward(self, x):
        weight = next(self.parameters())
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * weight


class BiasedRMSNorm(Norm):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x):
        return super().forward(x) + self.bias


class OffsetLayerNorm(Norm):
    """LayerNorm with ``1 + w``, as in Nemotron."""

    def __init__(self):
        super().__init__(eps=1e-5)
        self.bias = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x):
        return nn.functional.layer_norm(x, (WIDTH,), self.weight + 1, self.bias, self.eps)


class GatedNorm(Norm):
    def forward(self, x, gate):
        return super().forward(x) * nn.functional.silu(gate)


class OptionalGateNorm(Norm):
    def forward(self, x, gate=None):
        normed = super().forward(x)
        return normed if gate is None else normed * nn.functional.silu(gate)


class HeadNorm(Norm):
    def __init__(self):
        super().__init__(shape=(3, WIDTH))


class SumNorm(Norm):
    """Divides by the norm instead of the root of the mean square."""

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + self.eps) * self.weight


class ScaledNorm(Norm):
    def forward(self, x):
        return super().forward(x) * 1.001


class HalfNorm(Norm):
    """Norms the first half of the channels only."""

    def forward(self, x):
        first, second = x.chunk(2, -1)
        scale = torch.rsqrt(first.pow(2).mean(-1, keepdim=True) + self.eps)
        return torch.cat((first * scale, second), -1) * self.weight


class MaxNorm(Norm):
    """Bounds the root from below instead of adding epsilon: the same only for large inputs."""

    def forward(self, x):
        return x / x.pow(2).mean(-1, keepdim=True).sqrt().clamp_min(0.01) * self.weight * (1 + x.mean())


class NestedNorm(Norm):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(WIDTH, WIDTH)


class TwoWeightsNorm(Norm):
    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))


class TupleNorm(Norm):
    def forward(self, x):
        return super().forward(x), x


@pytest.mark.parametrize("eps", EPSILONS)
@pytest.mark.parametrize(
    ("module", "kind", "offset"),
    [(LlamaRMSNorm, "rms", 0.0), (Gemma2RMSNorm, "rms", 1.0), (nn.LayerNorm, "layer", 0.0)],
)
def test_norms_of_models_are_recognised(module, kind, offset, eps):
    assert classify_norm(module(WIDTH, eps=eps)) == NormKind(kind, offset, eps)


@pytest.mark.parametrize("name", ["weight", "scale", "gamma"])
def test_the_weight_may_have_any_usual_name(name):
    assert classify_norm(Norm(name=name)) == NormKind("rms", 0.0, 1e-6)


def test_an_epsilon_that_is_no_attribute_is_found_among_the_usual_ones():
    norm = Norm(eps=1e-5)
    norm.eps = torch.tensor(1e-5)
    assert classify_norm(norm) == NormKind("rms", 0.0, 1e-5)


def test_a_bias_is_part_of_both_kinds():
    assert classify_norm(BiasedRMSNorm()) == NormKind("rms", 0.0, 1e-6)
    assert classify_norm(OffsetLayerNorm()) == NormKind("layer", 1.0, 1e-5)
    assert classify_norm(nn.LayerNorm(WIDTH, bias=False)) == NormKind("layer", 0.0, 1e-5)


def test_a_gate_that_is_not_given_is_no_gate():
    assert classify_norm(OptionalGateNorm()) == NormKind("rms", 0.0, 1e-6)


@pytest.mark.parametrize(
    "module",
    [GatedNorm, HeadNorm, SumNorm, ScaledNorm, HalfNorm, MaxNorm, NestedNorm, TwoWeightsNorm, TupleNorm],
)
def test_near_misses_are_no_norms(module):
    assert classify_norm(module()) is None


def test_a_norm_without_weight_is_left_alone():
    assert classify_norm(nn.LayerNorm(WIDTH, elementwise_affine=False)) is None


def test_an_unusual_epsilon_that_is_no_attribute_is_not_guessed():
    norm = Norm()
    norm.eps = torch.tensor(3e-4)
    assert classify_norm(norm) is None


class SwitchedNorm(Norm):
    """Two modules of one class and equal floats that compute different things."""

    def __init__(self, *, offset):
        super().__init__()
        self.offset = offset

    def forward(self, x):
        normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return normed * (self.weight + (1 if self.offset else 0))


def test_modules_of_one_class_are_told_apart_by_their_flags():
    model = nn.ModuleList([SwitchedNorm(offset=False), SwitchedNorm(offset=True)])
    with recorded_norms(model):
        kinds = [module.forward.args[1] for module in model]
    assert kinds == [NormKind("rms", 0.0, 1e-6), NormKind("rms", 1.0, 1e-6)]


def test_modules_are_restored():
    model = nn.ModuleList([Norm(), GatedNorm()])
    with recorded_norms(model):
        assert "forward" in vars(model[0])
        assert "forward" not in vars(model[1])
    assert "forward" not in vars(model[0])


def test_a_gate_that_is_given_runs_the_original():
    module = OptionalGateNorm()
    x, gate = torch.randn(2, 3, WIDTH), torch.randn(2, 3, WIDTH)
    expected = module(x, gate)
    with recorded_norms(module):
        assert torch.equal(module(x, gate), expected)
        assert torch.equal(module(x, gate=gate), expected)


@pytest.mark.parametrize("x", [torch.float16, torch.float32])
@pytest.mark.parametrize("weight", [torch.float16, torch.float32])
def test_the_result_has_the_wider_type_as_in_torch(x, weight):
    tensor, scale = torch.ones(2, 4, dtype=x), torch.ones(4, dtype=weight)
    wanted = (tensor * scale).dtype
    assert operators.rms_norm(tensor, scale, 1e-6).dtype == wanted
    assert operators.layer_norm(tensor, scale, None, 1e-6).dtype == wanted
    assert operators.layer_norm(tensor, scale, scale, 1e-6).dtype == wanted
