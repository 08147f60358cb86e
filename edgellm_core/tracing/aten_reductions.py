"""ATen operators that combine elements: sums and softmax, look-ups, matrix products, norms and attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from edgellm_core.tracing.aten_table import ConversionTable, element_type, rank
from edgellm_core.tracing.converter import Conversion, Converter, UnsupportedOperatorError
from edgellm_core.tracing.operators import DOMAIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import fx

TABLE: Final = ConversionTable()


def _reduction(op: str) -> Conversion:
    def convert(
        c: Converter,
        node: fx.Node,
        x: fx.Node,
        dim: Any = None,
        keepdim: bool = False,
        *,
        dtype: torch.dtype | None = None,
    ) -> Any:
        del dtype  # the node's own element type
        axes = [dim] if isinstance(dim, int) else list(dim or range(rank(x)))
        return c.emit(op, [c.value(x, element_type(node)), c.ints(*axes)], keepdims=int(keepdim))

    return convert


TABLE.converts("mean.dim", "mean.default")(_reduction("ReduceMean"))
TABLE.converts("sum.dim_IntList", "sum.default")(_reduction("ReduceSum"))
TABLE.converts("amax.default", "max.default")(_reduction("ReduceMax"))
TABLE.converts("amin.default", "min.default")(_reduction("ReduceMin"))


@TABLE.converts("softmax.int", "_softmax.default")
def softmax(c: Converter, node: fx.Node, x: fx.Node, dim: int, *_args: Any) -> Any:
    """Softmax in the node's element type."""
    return c.emit("Softmax", [c.value(x, element_type(node))], axis=dim)


@TABLE.converts("cumsum.default")
def cumsum(c: Converter, node: fx.Node, x: fx.Node, dim: int, *, dtype: torch.dtype | None = None) -> Any:
    """Running sum along one axis."""
    del dtype  # the node's own element type
    return c.emit("CumSum", [c.value(x, element_type(node)), c.constant(dim, torch.int64)])


@TABLE.converts("topk.default")
def topk(  # ATen's signature
    c: Converter,
    node: fx.Node,
    x: fx.Node,
    k: int | fx.Node,
    dim: int = -1,
    largest: bool = True,
    sorted: bool = True,  # noqa: A002
) -> Any:
    """Largest or smallest ``k`` along one axis, with their indices."""
    del node
    count = c.ints(k) if isinstance(k, int) else c.shape([k])
    return c.emit("TopK", [c.values[x], count], 2, axis=dim, largest=int(largest), sorted=int(sorted))


@TABLE.converts("gather.default")
def gather(c: Converter, _node: fx.Node, x: fx.Node, dim: int, index: fx.Node, *, sparse_grad: bool = False) -> Any:
    """Pick elements along one axis."""
    del sparse_grad  # for the backward pass
    return c.emit("GatherElements", [c.values[x], c.values[index]], axis=dim)


@TABLE.converts("scatter.value")
def scatter_value(c: Converter, node: fx.Node, x: fx.Node, dim: int, index: fx.Node, value: float) -> Any:
    """Write one number to the places that an index names along one axis."""
    numbers = c.emit("Expand", [c.value(value, element_type(node)), c.emit("Shape", [c.values[index]])])
    return c.emit("ScatterElements", [c.values[x], c.values[index], numbers], axis=dim)


@TABLE.converts("index.Tensor")
def index(c: Converter, node: fx.Node, x: fx.Node, indices: Sequence[fx.Node | None]) -> Any:
    """Rows of one axis by a tensor of integers, or elements by one such tensor for each of the first axes."""
    given = [(axis, item) for axis, item in enumerate(indices) if item is not None]
    if any(element_type(item) == torch.bool for _axis, item in given):
        msg = f"{node.target} by booleans"
        raise UnsupportedOperatorError(msg)
    names = [c.value(item, torch.int64) for _axis, item in given]
    if len(given) == 1:
        return c.emit("Gather", [c.values[x], names[0]], axis=given[0][0])
    if [axis for axis, _item in given] != list(range(len(given))):
        msg = f"{node.target} along several axes that are not the first ones"
        raise UnsupportedOperatorError(msg)
    total = names[0]
    for name in names[1:]:
        total = c.emit("Add", [total, name])
    shape = c.emit("Shape", [total])
    columns = [c.emit("Unsqueeze", [c.emit("Expand", [name, shape]), c.ints(-1)]) for name in names]
    return c.emit("GatherND", [c.values[x], c.emit("Concat", columns, axis=-1)])


@TABLE.converts("embedding.default")
def embedding(c: Converter, _node: fx.Node, weight: fx.Node, ids: fx.Node, *_args: Any) -> Any:
    """Rows of a table."""
    return c.emit("Gather", [c.values[weight], c.values[ids]], axis=0)


@TABLE.converts("linear.default")
def linear(c: Converter, _node: fx.Node, x: fx.Node, weight: fx.Node, bias: fx.Node | None = None) -> Any:
    """``x · weightᵀ + bias`` stays one semantic operator; the target decides how weights lie."""
    inputs = [c.values[x], c.values[weight], *([] if bias is None else [c.values[bias]])]
    return c.emit("Linear", inputs, domain=DOMAIN)


@TABLE.converts("matmul.default", "bmm.default", "mm.default")
def matmul(c: Converter, _node: fx.Node, x: fx.Node, y: fx.Node) -> Any:
    """Matrix product."""
    return c.emit("MatMul", [c.values[x], c.values[y]])


@TABLE.converts("addmm.default", "baddbmm.default")
def add_product(
    c: Converter, node: fx.Node, bias: fx.Node, x: fx.Node, y: fx.Node, *, beta: float = 1, alpha: float = 1
) -> Any:
    """``beta · bias + alpha · (x · y)``."""
    if beta == 0:
        msg = f"{node.target} with beta 0, which drops even NaN"
        raise UnsupportedOperatorError(msg)
    parts = [(beta, c.values[bias]), (alpha, c.emit("MatMul", [c.values[x], c.values[y]]))]
    scaled = [v if factor == 1 else c.emit("Mul", [v, c.constant(factor, element_type(node))]) for factor, v in parts]
    return c.emit("Add", scaled)


@TABLE.converts("layer_norm.default")
def layer_norm(
    c: Converter,
    node: fx.Node,
    x: fx.Node,
    shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_cudnn: bool,
) -> Any:
    """LayerNormalization; a missing weight is ones."""
    scale = c.constant(torch.ones(tuple(shape), dtype=element_type(node))) if weight is None else c.values[weight]
    inputs = [c.values[x], scale, *([] if bias is None else [c.values[bias]])]
    return c.emit("LayerNormalization", inputs, axis=-len(shape), epsilon=float(eps))


@TABLE.converts("rms_norm.default")
def rms_norm(
    c: Converter, node: fx.Node, x: fx.Node, shape: Sequence[int], weight: Any = None, eps: float | None = None
) -> Any:
    """RMSNormalization; a missing weight is ones, a missing epsilon the element type's."""
    dtype = element_type(node)
    scale = c.constant(torch.ones(tuple(shape), dtype=dtype)) if weight is None else c.values[weight]
    epsilon = torch.finfo(dtype).eps if eps is None else eps
    return c.emit("RMSNormalization", [c.values[x], scale], axis=-len(shape), epsilon=float(epsilon))


@TABLE.converts("scaled_dot_product_attention.default")
def scaled_dot_product_attention(  # noqa: PLR0913  # ATen's signature
    c: Converter,
    _node: fx.Node,
    query: fx.Node,
    key: fx.Node,
    value: fx.Node,
    attn_mask: fx.Node | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Models that call torch's attention themselves; a causal call without a mask can't be told from a cached one."""
    del enable_gqa
    if is_causal or dropout_p:
        raise UnsupportedOperatorError("causal aten.scaled_dot_product_attention without a mask")
    factor = scale if scale is not None else int(query.meta["val"].shape[-1]) ** -0.5
    inputs = [c.values[query], c.values[key], c.values[value], *([] if attn_mask is None else [c.values[attn_mask]])]
    return c.emit("Attention", inputs, domain=DOMAIN, scale=float(factor), softcap=0.0)
