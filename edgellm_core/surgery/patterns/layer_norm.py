"""Layer norms in plain operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.surgery.patterns.pattern import PatternRule, miss
from edgellm_core.surgery.patterns.rms_norm import FoundNorm, write_norm
from edgellm_core.surgery.patterns.standardized import (
    Standardized,
    require_channels,
    require_float_type,
    rounded_source,
    standardized,
)
from edgellm_core.surgery.patterns.values import either_order, producer, rank, reduced_last_axis

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from edgellm_core.surgery.rule import Editor


class PlainLayerNorm(PatternRule[FoundNorm]):
    """``(x - mean(x)) / sqrt(mean((x - mean(x))²) + ε) · w [+ b]`` → ``edgellm::LayerNorm(x, w[, b])``."""

    def find(self, node: gs.Node) -> FoundNorm | None:
        """Return a norm that ends with its bias, or with its weight where no bias follows."""
        if node.op == "Mul":
            return None if _bias_follows(node) else _scaled(node)
        if node.op != "Add":
            return None
        for product, bias in either_order(node):
            multiply = producer(product, "Mul")
            found = _scaled(multiply) if multiply is not None else None
            if found is not None and multiply is not None:
                require_channels(bias, found.x)
                return FoundNorm(
                    inner=(multiply, *found.inner), x=found.x, weight=found.weight, bias=bias, epsilon=found.epsilon
                )
        return None

    def write(self, node: gs.Node, found: FoundNorm, edit: Editor) -> None:
        """Write the semantic operator."""
        write_norm("LayerNorm", node, found, edit)


def _bias_follows(node: gs.Node) -> bool:
    consumers = node.outputs[0].outputs
    if len(consumers) != 1 or consumers[0].op != "Add":
        return False
    return any(rank(tensor) == 1 for tensor in consumers[0].inputs)


def _scaled(node: gs.Node) -> FoundNorm | None:
    """Return the norm without bias that ends at a ``Mul``."""
    for normed, weight in either_order(node):
        cast = producer(normed, "Cast")
        core = standardized(cast.inputs[0] if cast is not None else normed)
        centered = _centered(core) if core is not None else None
        if core is None or centered is None:
            continue
        x, nodes = centered
        if cast is not None:
            x, nodes = rounded_source(normed, x), (cast, *nodes)
        require_float_type(x)
        require_channels(weight, x)
        return FoundNorm(inner=(*core.inner, *nodes), x=x, weight=weight, epsilon=core.epsilon)
    return None


def _centered(core: Standardized) -> tuple[gs.Tensor, tuple[gs.Node, ...]] | None:
    """Return x and the nodes of ``x - mean(x)``, which must be both what is divided and what is squared."""
    above, below = _difference(core.x), _difference(core.squared)
    if above is None or below is None or above[0] is not below[0]:
        return None
    return above[0], tuple({id(node): node for node in (*above[1], *below[1])}.values())


def _difference(tensor: gs.Tensor) -> tuple[gs.Tensor, tuple[gs.Node, ...]] | None:
    subtract = producer(tensor, "Sub")
    reduce = producer(subtract.inputs[1], "ReduceMean") if subtract is not None else None
    if subtract is None or reduce is None or reduce.inputs[0] is not subtract.inputs[0]:
        return None
    if not reduced_last_axis(reduce):
        miss("its mean is not over the last axis alone")
    return subtract.inputs[0], (subtract, reduce)
