"""Reads how a mixture of experts chooses experts, from the operators between its router and its experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

import onnx_graphsurgeon as gs

from edgellm_core.targets.edge_llm.errors import ExpertsNotExpressibleError

if TYPE_CHECKING:
    from collections.abc import Sequence

LAST: Final = (-1, 1)
"""The last of two axes."""


@dataclass(frozen=True)
class Routing:
    """Softmax over the experts, the largest of them, and their weights.

    Attributes:
        logits: ``[tokens, experts]``, before the softmax.
        chosen: experts of a token.
        normalised: their weights are divided by their sum. So is a softmax over the chosen logits alone.
    """

    logits: gs.Tensor
    chosen: int
    normalised: bool


def read_routing(node: gs.Node) -> Routing:
    """Return the routing of ``edgellm::Experts``.

    Raises:
        ExpertsNotExpressibleError: it is another one.
    """
    return _Reader(node).read()


class _Reader:
    def __init__(self, node: gs.Node) -> None:
        self._node = node

    def read(self) -> Routing:
        index, weights = self._node.inputs[1:3]
        top = _maker(index)
        if top is None or top.op != "TopK" or _uncast(index) is not top.outputs[1]:
            self._refuse("they are not the largest of a token")
        self._require_largest(top)
        chosen = _numbers(top.inputs[1])
        assert chosen is not None  # for mypy: torch.topk takes a number
        over_all = _maker(top.inputs[0])
        if over_all is not None and over_all.op == "Softmax":
            self._require_last(over_all)
            return Routing(over_all.inputs[0], chosen[0], normalised=self._is_normalised(weights, top))
        over_chosen = _maker(weights)
        if over_chosen is None or over_chosen.op != "Softmax" or _uncast(over_chosen.inputs[0]) is not top.outputs[0]:
            self._refuse("their weights are not a softmax")
        self._require_last(over_chosen)
        return Routing(top.inputs[0], chosen[0], normalised=True)

    def _is_normalised(self, weights: gs.Tensor, top: gs.Node) -> bool:
        """Say whether weights are divided by their sum; refuse what is neither those of the softmax nor that."""
        values = top.outputs[0]
        if _uncast(weights) is values:
            return False
        divided = _maker(weights)
        if divided is None or divided.op != "Div" or _uncast(divided.inputs[0]) is not values:
            self._refuse("their weights are changed after the softmax")
        total = _maker(divided.inputs[1])
        if total is None or total.op != "ReduceSum" or _uncast(total.inputs[0]) is not values:
            self._refuse("their weights are not divided by their sum")
        axes = _numbers(total.inputs[1]) if len(total.inputs) > 1 else None
        if axes is None or len(axes) != 1 or axes[0] not in LAST or not total.attrs.get("keepdims", 1):
            self._refuse("their weights are not divided by the sum of a token's")
        return True

    def _require_largest(self, top: gs.Node) -> None:
        if int(top.attrs.get("axis", -1)) not in LAST or not top.attrs.get("largest", 1):
            self._refuse("they are not the largest of a token")

    def _require_last(self, softmax: gs.Node) -> None:
        if int(softmax.attrs.get("axis", -1)) not in LAST:
            self._refuse("their softmax is not over the experts")

    def _refuse(self, reason: str) -> NoReturn:
        raise ExpertsNotExpressibleError(self._node.name, reason)


def _uncast(tensor: gs.Tensor) -> gs.Tensor:
    """Return a value before its type was changed."""
    while tensor.inputs and tensor.inputs[0].op == "Cast":
        tensor = tensor.inputs[0].inputs[0]
    return tensor


def _maker(tensor: gs.Tensor) -> gs.Node | None:
    """Return the node that makes a value, before its type was changed."""
    tensor = _uncast(tensor)
    return tensor.inputs[0] if tensor.inputs else None


def _numbers(tensor: gs.Tensor) -> Sequence[int] | None:
    """Return the numbers of a constant."""
    return [int(number) for number in tensor.values.reshape(-1)] if isinstance(tensor, gs.Constant) else None
