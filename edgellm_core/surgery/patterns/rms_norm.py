"""Root-mean-square norms in plain operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from edgellm_core.surgery.patterns.pattern import Found, PatternRule, name_of
from edgellm_core.surgery.patterns.standardized import (
    require_channels,
    require_float_type,
    rounded_source,
    standardized,
)
from edgellm_core.surgery.patterns.values import either_order, narrower, producer

if TYPE_CHECKING:
    from edgellm_core.surgery.rule import Editor


@dataclass(frozen=True, kw_only=True)
class FoundNorm(Found):
    """A norm over the last axis.

    Attributes:
        x: its input.
        weight: ``[channels]``.
        bias: ``[channels]``, or None.
        epsilon: the number under the root.
    """

    x: gs.Tensor
    weight: gs.Tensor
    bias: gs.Tensor | None = None
    epsilon: float


class PlainRMSNorm(PatternRule[FoundNorm]):
    """``x / sqrt(mean(x²) + ε) · w`` → ``edgellm::RMSNorm(x, w)``."""

    def find(self, node: gs.Node) -> FoundNorm | None:
        """Return a norm that ends with the product by its weight."""
        if node.op != "Mul":
            return None
        for normed, weight in either_order(node):
            cast = producer(normed, "Cast")
            core = standardized(cast.inputs[0] if cast is not None else normed)
            if core is None or core.x is not core.squared:
                continue
            x = rounded_source(normed, core.x) if cast is not None else core.x
            require_float_type(x)
            require_channels(weight, x)
            inner = core.inner if cast is None else (cast, *core.inner)
            return FoundNorm(inner=inner, x=x, weight=weight, epsilon=core.epsilon)
        return None

    def write(self, node: gs.Node, found: FoundNorm, edit: Editor) -> None:
        """Write the semantic operator."""
        write_norm("RMSNorm", node, found, edit)


def write_norm(operator: str, node: gs.Node, found: FoundNorm, edit: Editor) -> None:
    """Write a semantic norm in the type of its input; a result in a narrower type is rounded after the weight."""
    name, output = name_of(node), node.outputs[0]
    parameters = [found.weight] if found.bias is None else [found.weight, found.bias]
    if not narrower(output, found.x):
        edit.semantic(operator, [found.x, *parameters], output, name=name, epsilon=found.epsilon)
        return
    wide = [
        edit.cast(tensor, gs.Variable(f"{name}.wide.{index}", dtype=found.x.dtype), name=f"{name}/wide.{index}")
        for index, tensor in enumerate(parameters)
    ]
    normed = gs.Variable(f"{name}.normed", dtype=found.x.dtype, shape=output.shape)
    edit.semantic(operator, [found.x, *wide], normed, name=name, epsilon=found.epsilon)
    edit.cast(normed, output, name=f"{name}/rounded")
