"""Root-mean-square norms in plain operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgellm_core.surgery.patterns.pattern import Found, PatternRule, name_of
from edgellm_core.surgery.patterns.standardized import (
    require_channels,
    require_float_type,
    rounded_source,
    standardized,
)
from edgellm_core.surgery.patterns.values import either_order, producer

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

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
        inputs = [found.x, found.weight]
        edit.semantic("RMSNorm", inputs, node.outputs[0], name=name_of(node), epsilon=found.epsilon)
