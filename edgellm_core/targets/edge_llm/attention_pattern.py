"""Reads what an attention does between its projections and its output, from the semantic operators around it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn

import onnx
import onnx_graphsurgeon as gs

from edgellm_core.surgery.rule import semantic
from edgellm_core.targets.edge_llm.errors import AttentionNotExpressibleError
from edgellm_core.targets.edge_llm.quantized_cache import qkv_scales

if TYPE_CHECKING:
    from collections.abc import Sequence

_PAST: Final = re.compile(r"past_key_values\.(\d+)\.(key|value)")


FLOATS: Final = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
"""Types that queries and keys may take on the way."""


@dataclass(frozen=True)
class HeadNorm:
    """An RMSNorm over each head of a query or key.

    Attributes:
        gamma: its weight ``[head_dim]``.
        epsilon: its epsilon.
        after_rotary: whether it comes after the rotation.
    """

    gamma: gs.Tensor
    epsilon: float
    after_rotary: bool


@dataclass(frozen=True)
class Stream:
    """Where a query, key or value comes from.

    Attributes:
        flat: ``[batch, seq, heads * head_dim]``, before it is split into heads.
        heads: number of heads.
        head_dim: their size.
        rotary: the node that rotates it, or None.
        norm: the norm of its heads, or None.
    """

    flat: gs.Tensor
    heads: int
    head_dim: int
    rotary: gs.Node | None
    norm: HeadNorm | None


@dataclass(frozen=True)
class AttentionPattern:
    """One attention as the plugin computes it.

    Attributes:
        layer: index of its KV cache.
        query: the query.
        key: the new keys.
        value: the new values.
        window: last keys that a query sees, itself included; -1 for all.
        scale: factor on the logits.
        sinks: ``[heads]`` logits of an extra key, or None.
        qkv_scales: what queries, keys and values in fp8 are multiplied with; None for a cache in float16.
        output: ``[batch, seq, heads * head_dim]``.
    """

    layer: int
    query: Stream
    key: Stream
    value: Stream
    window: int
    scale: float
    sinks: gs.Tensor | None
    qkv_scales: tuple[float, float, float] | None
    output: gs.Tensor


@dataclass
class _Reader:
    """Reads one attention node; ``place`` is its name."""

    node: gs.Node
    place: str = field(init=False)

    def __post_init__(self) -> None:
        self.place = self.node.name

    def refuse(self, reason: str) -> NoReturn:
        raise AttentionNotExpressibleError(self.place, reason)

    def window(self) -> int:
        mask = self.node.inputs[3] if len(self.node.inputs) > 3 else None
        if mask is None or mask.is_empty():
            self.refuse("it has no causal mask")
        maker = mask.inputs[0] if mask.inputs else None
        if maker is None or not semantic(maker, "AttentionMask"):
            self.refuse("its mask is not made of causality, a window and padding alone (ALiBi or another bias?)")
        if maker.inputs[0].name != "attention_mask":
            self.refuse("its mask does not come from the attention mask alone")
        if not maker.attrs["causal"]:
            self.refuse("it is not causal")
        if maker.attrs["chunk"]:
            self.refuse(f"it attends in chunks of {maker.attrs['chunk']}")
        return int(maker.attrs["window"]) or -1

    def cached(self, tensor: gs.Tensor, kind: str) -> tuple[int, gs.Node]:
        """Return the layer of a cache, and the node that appends new keys or values to it."""
        append = tensor.inputs[0] if tensor.inputs else None
        if append is None or not semantic(append, "Append"):
            self.refuse(f"its {kind}s are not the cache with new ones appended")
        past = append.inputs[0].name
        found = _PAST.fullmatch(past)
        if found is None or found[2] != kind:
            self.refuse(f"its {kind}s come from the state {past!r}")
        return int(found[1]), append

    def stream(self, tensor: gs.Tensor) -> Stream:
        """Walk from ``[batch, heads, seq, head_dim]`` up to the projection."""
        heads, head_dim = int(tensor.shape[1]), int(tensor.shape[3])
        rotary: gs.Node | None = None
        norm: HeadNorm | None = None
        while tensor.inputs:
            maker = _joined_rotary(tensor.inputs[0]) or tensor.inputs[0]
            if semantic(maker, "Rotary") and rotary is None:
                rotary = maker
                if maker is not tensor.inputs[0]:
                    maker = maker.inputs[0].inputs[0]
            elif semantic(maker, "RMSNorm") and norm is None and list(maker.inputs[1].shape or []) == [head_dim]:
                norm = HeadNorm(maker.inputs[1], float(maker.attrs["epsilon"]), after_rotary=rotary is None)
            elif maker.op == "Reshape" and len(maker.inputs[0].shape or ()) == 3:
                return Stream(maker.inputs[0], heads, head_dim, rotary, norm)
            elif maker.op == "Cast" and maker.attrs["to"] in FLOATS:
                pass  # the plugin computes in float32 whatever the model does
            elif not (maker.op == "Transpose" and list(maker.attrs.get("perm", ())) == [0, 2, 1, 3]):
                self.refuse(f"{maker.domain + '::' if maker.domain else ''}{maker.op} stands before it")
            tensor = maker.inputs[0]
        return self.refuse("one of its operands is not projected in its layer")

    def output(self) -> gs.Tensor:
        """Return the joined heads ``[batch, seq, heads * head_dim]``."""
        tensor = self.node.outputs[0]
        for op in ("Transpose", "Reshape"):
            readers = list(tensor.outputs)
            if len(readers) != 1 or readers[0].op != op:
                self.refuse(f"its output does not go through one {op}")
            tensor = readers[0].outputs[0]
        return tensor


def _joined_rotary(node: gs.Node) -> gs.Node | None:
    """Return the rotation of ``Concat(Rotary(x[:n]), x[n:])`` along the channels, which is a partial rotation of x."""
    if node.op != "Concat" or len(node.inputs) != 2 or node.attrs.get("axis") not in (-1, 3):
        return None
    rotary, rest = (tensor.inputs[0] if tensor.inputs else None for tensor in node.inputs)
    if rotary is None or rest is None or not semantic(rotary, "Rotary") or not rotary.inputs[0].inputs:
        return None
    first, size = rotary.inputs[0].inputs[0], int(rotary.attrs["rotary_dim"])
    slices = first.op == rest.op == "Slice" and first.inputs[0] is rest.inputs[0]
    if not slices or [_channels(first, 3), _channels(rest, 3)] != [(0, size), (size, int(node.outputs[0].shape[3]))]:
        return None
    return rotary


def _channels(node: gs.Node, axis: int) -> tuple[int, int] | None:
    """Return the range that a ``Slice`` takes of one axis, the last."""
    constants = [tensor.values.tolist() for tensor in node.inputs[1:] if isinstance(tensor, gs.Constant)]
    if len(constants) != len(node.inputs) - 1 or constants[2] not in ([axis], [-1]) or constants[3:] not in ([], [[1]]):
        return None
    [start], [end] = constants[:2]
    return start, min(end, int(node.inputs[0].shape[-1]))


def read_attention(node: gs.Node) -> AttentionPattern:
    """Return what an ``edgellm::Attention`` does.

    Raises:
        AttentionNotExpressibleError: the plugin can't do it.
    """
    reader = _Reader(node)
    if node.attrs["softcap"]:
        reader.refuse(f"it caps its logits at {node.attrs['softcap']:g}, and the plugin has no cap")
    window = reader.window()
    layer, keys = reader.cached(node.inputs[1], "key")
    other, values = reader.cached(node.inputs[2], "value")
    if other != layer:
        reader.refuse(f"its keys are those of layer {layer} and its values those of layer {other}")
    query, key, value = (reader.stream(tensor) for tensor in (node.inputs[0], keys.inputs[1], values.inputs[1]))
    _check_streams(reader, query, key, value)
    return AttentionPattern(
        layer=layer,
        query=query,
        key=key,
        value=value,
        window=window,
        scale=float(node.attrs["scale"]),
        sinks=node.inputs[4] if len(node.inputs) > 4 else None,
        qkv_scales=qkv_scales(keys, values),
        output=reader.output(),
    )


def _check_streams(reader: _Reader, query: Stream, key: Stream, value: Stream) -> None:
    if not query.head_dim == key.head_dim == value.head_dim:
        reader.refuse(f"its heads have the sizes {query.head_dim}, {key.head_dim} and {value.head_dim}")
    if key.heads != value.heads:
        reader.refuse(f"it has {key.heads} heads of keys and {value.heads} of values")
    if value.rotary is not None or value.norm is not None:
        reader.refuse("its values are rotated or normalised by head")
    if query.rotary is None or key.rotary is None:
        reader.refuse("it has no RoPE, and the runtime rotates in every layer")
    if _rotation(query.rotary) != _rotation(key.rotary):
        reader.refuse("queries and keys are rotated by different angles")
    if (query.norm is None) != (key.norm is None):
        reader.refuse("only one of queries and keys is normalised")
    if query.norm is not None and key.norm is not None:
        _check_norms(reader, query.norm, key.norm)


def _check_norms(reader: _Reader, query: HeadNorm, key: HeadNorm) -> None:
    if query.epsilon != key.epsilon or query.after_rotary != key.after_rotary:
        reader.refuse("queries and keys are normalised differently")
    if query.gamma.inputs or key.gamma.inputs:
        reader.refuse("the weights of its norms are computed, and the plugin takes constants")


def _rotation(node: gs.Node) -> tuple[Any, ...]:
    cos, sin = node.inputs[1:]
    return cos.name, sin.name, node.attrs["interleaved"], node.attrs["rotary_dim"]


def whole_projection(streams: Sequence[Stream]) -> gs.Tensor | None:
    """Return the output of one projection whose parts are queries, keys and values in order, or None.

    Parts are made by one ``Split`` or by ``Slice`` along the last axis.
    """
    makers = [stream.flat.inputs[0] if stream.flat.inputs else None for stream in streams]
    if any(maker is None or maker.op not in ("Split", "Slice") for maker in makers):
        return None
    sources = {id(maker.inputs[0]) for maker in makers if maker is not None}
    if len(sources) != 1 or makers[0] is None:
        return None
    start = 0
    for stream, maker in zip(streams, makers, strict=True):
        size = stream.heads * stream.head_dim
        if _range_of(maker, stream.flat) != (start, start + size):
            return None
        start += size
    whole: gs.Tensor = makers[0].inputs[0]
    return whole if int(whole.shape[-1]) == start else None


def _range_of(maker: Any, part: gs.Tensor) -> tuple[int, int] | None:
    """Return the channels that a part holds."""
    if maker.op == "Slice":
        return _channels(maker, 2)
    sizes = [int(tensor.shape[-1]) for tensor in maker.outputs]
    index = next(number for number, tensor in enumerate(maker.outputs) if tensor is part)
    return (sum(sizes[:index]), sum(sizes[: index + 1])) if maker.attrs.get("axis") in (2, -1) else None
