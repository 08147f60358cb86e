"""In-place operators become new values, unless something else would change with them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import export

from edgellm_core.tracing.in_place import functional_name, is_in_place, names_of_changed, obstacle


class Module(nn.Module):
    """Runs a function; has a buffer that functions may change."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.table = nn.Buffer(torch.arange(4.0), persistent=False)

    def forward(self, x):
        return self.function(self, x)


def in_place_nodes(function):
    program = export(Module(function), (torch.ones(2, 4),), strict=False)
    return [node for node in program.graph.nodes if node.op == "call_function" and is_in_place(node)]


def fresh(_module, x):
    y = x * 2
    z = y + 1
    y /= y.sum()
    return y + z


def of_one_output(_module, x):
    values, _indices = torch.topk(x, 2)
    values /= values.sum()
    return values


def twice(_module, x):
    y = x * 2
    y /= y.sum()
    y.clamp_(max=0.5)
    return y


def overwritten_table(module, x):
    module.table.copy_(torch.where(x.sum() > 3, x[0], x[1]))
    return x * module.table


def a_view(_module, x):
    y = x * 2
    y.view(-1).add_(1)
    return y


def viewed_before(_module, x):
    y = x * 2
    rows = y[0]
    y.add_(1)
    return rows


def a_chunk(_module, x):
    first, second = (x * 2).chunk(2, -1)
    first.add_(1)
    return first + second


def dropped_out(_module, x):
    y = x * 2
    z = torch.dropout(y, 0.1, train=False)
    z.add_(1)
    return y


def counter(module, x):
    module.table.add_(1)
    return x * module.table


def counted_after(module, x):
    module.table.copy_(x[0])
    module.table.add_(1)
    return module.table


def read_before(module, x):
    y = x * module.table
    module.table.copy_(x[0])
    return y


@pytest.mark.parametrize("function", [fresh, of_one_output, overwritten_table])
def test_a_value_of_its_own_is_replaced(function):
    assert [obstacle(node) for node in in_place_nodes(function)] == [None]


def test_one_after_the_other_changes_one_value():
    nodes = in_place_nodes(twice)
    assert [obstacle(node) for node in nodes] == [None, None]
    assert names_of_changed(nodes[1]) == [*names_of_changed(nodes[0]), nodes[0]]


@pytest.mark.parametrize("function", [a_view, viewed_before, a_chunk, dropped_out])
def test_shared_memory_is_refused(function):
    (node,) = in_place_nodes(function)
    assert obstacle(node) == "on a value that shares memory with another"


@pytest.mark.parametrize("function", [counter, read_before, counted_after])
def test_a_buffer_that_carries_a_state_is_refused(function):
    node = in_place_nodes(function)[-1]
    assert obstacle(node) == "on a buffer that keeps its value between calls"


def test_names():
    (node,) = in_place_nodes(fresh)
    assert functional_name(node) == "aten.div.Tensor"
    assert not in_place_nodes(lambda _module, x: x * 2)
