"""What is measured of the inputs of linear layers, against plain arithmetic; layers that read one input share it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgellm_core.calibration.errors import ActivationsNotFiniteError
from edgellm_core.calibration.statistics import InputStatistics, Measured, StatisticsCollector

ALL = Measured(channels=True, products=1)


class Block(nn.Module):
    """Two layers read one tensor, the second through a view; a third reads another."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.three = nn.Linear(8, 4), nn.Linear(8, 6), nn.Linear(4, 3)

    def forward(self, inputs):
        self.two(inputs.view(-1, 8))
        return self.three(self.one(inputs))


def collect(block, batches, measured=ALL):
    collector = StatisticsCollector(dict(block.named_children()), lambda _path: measured)
    with torch.no_grad(), collector.listening():
        for batch in batches:
            block(batch)
            collector.end_batch()
    return collector


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 5, 8, generator=generator) * 3 for _ in range(3)]


def test_layers_that_read_one_tensor_share_what_is_measured(batches):
    found = collect(Block(), batches).shared_inputs()
    assert [shared.modules for shared in found] == [("two", "one"), ("three",)]
    rows = torch.cat(batches).reshape(-1, 8)
    statistics = found[0].statistics
    assert statistics.tokens == 30
    assert torch.equal(statistics.amax, rows.abs().max())
    assert torch.equal(statistics.range, rows.abs().amax(0))
    assert torch.allclose(statistics.mean, rows.abs().mean(0))
    assert torch.allclose(statistics.products, rows.T @ rows, rtol=1e-5, atol=1e-4)


def test_without_smoothing_only_the_range_of_the_whole_input_is_kept(batches):
    statistics = collect(Block(), batches, Measured()).shared_inputs()[0].statistics
    assert torch.equal(statistics.amax, torch.cat(batches).abs().max())
    assert statistics.channel_amax is None
    assert statistics.gram is None


def test_products_may_skip_tokens(batches):
    statistics = InputStatistics()
    for batch in batches:
        statistics.add(batch, Measured(channels=True, products=3))
    rows = torch.cat([batch.reshape(-1, 8)[::3] for batch in batches])
    assert statistics.products_of == len(rows)
    assert torch.allclose(statistics.products, rows.T @ rows, rtol=1e-5, atol=1e-4)
    assert statistics.tokens == 30


def test_an_expert_without_a_token_is_no_input():
    statistics = InputStatistics()
    statistics.add(torch.zeros(0, 8), ALL)
    assert statistics.tokens == 0
    assert statistics.amax is None


def test_layers_that_share_an_input_now_and_then_keep_to_themselves():
    class Fickle(Block):
        def forward(self, inputs):
            self.two(inputs if inputs[0, 0, 0] > 0 else inputs + 1)
            self.one(inputs)

    batches = [torch.full((1, 2, 8), 2.0), torch.full((1, 2, 8), -2.0)]
    found = {shared.modules: shared.statistics for shared in collect(Fickle(), batches).shared_inputs()}
    assert set(found) == {("one",), ("two",)}
    assert found["one",].tokens == found["two",].tokens == 4
    assert float(found["two",].absolute_sum[0]) == 2 * 2.0 + 2 * 1.0
    assert float(found["one",].products[0, 1]) == 4 * 4.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("measured", [Measured(), ALL], ids=["range", "all"])
def test_a_value_that_is_not_finite_names_the_first_layer(batches, value, measured):
    batches[1][1, 2, 3] = value
    with pytest.raises(ActivationsNotFiniteError, match="The inputs of two must be finite"):
        collect(Block(), batches, measured).shared_inputs()
