"""Inputs and outputs of a foreign decoder: which of them are ids, mask, positions, cache and logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgellm_core.surgery.rule import semantic
from edgellm_core.targets.edge_llm.imported.errors import NotADecoderError, NotHalfPrecisionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_graphsurgeon as gs

Arrays = dict[str, "np.ndarray[Any, Any]"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Sizes of one step.

    Attributes:
        seq: new tokens.
        past: tokens in the cache; 0 for graphs without one.
        padding: masked tokens at the start of each sequence; its length is the batch.
    """

    seq: int
    past: int = 0
    padding: tuple[int, ...] = (0,)

    @property
    def mask(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which tokens are real, ``[batch, past + seq]``."""
        real: np.ndarray[Any, np.dtype[np.bool_]] = np.arange(self.past + self.seq) >= np.array(self.padding)[:, None]
        return real

    @property
    def positions(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Position of each new token, ``[batch, seq]``."""
        counted = np.maximum(np.cumsum(self.mask, axis=1) - 1, 0)
        positions: np.ndarray[Any, np.dtype[np.int64]] = counted[:, self.past :].astype(np.int64)
        return positions


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One attention and its cache.

    Attributes:
        node: the ``edgellm::Attention``.
        past: names of the inputs that hold earlier keys and values; empty without a cache.
        present: names of the outputs that hold all keys and values; empty without a cache.
    """

    node: gs.Node
    past: tuple[str, ...] = ()
    present: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Interface:
    """What the inputs and outputs of a decoder are.

    Attributes:
        inputs: all inputs by name.
        tokens: ids ``[batch, seq]``, or embeddings ``[batch, seq, hidden]``.
        mask: which tokens are real, ``[batch, past + seq]``, or None.
        positions: ``[batch, seq]`` or ``[seq]``, or None.
        layers: attentions in order.
        logits: ``[batch, seq, vocab]``.
        opset: of the default domain.
    """

    inputs: Mapping[str, gs.Tensor]
    tokens: gs.Tensor
    mask: gs.Tensor | None
    positions: gs.Tensor | None
    layers: Sequence[Layer]
    logits: gs.Tensor
    opset: int

    @property
    def has_cache(self) -> bool:
        """Whether it reads earlier keys and values."""
        return bool(self.layers[0].past)

    def feeds(self, case: Case) -> Arrays:
        """Return inputs of these sizes, with zeros for ids, embeddings and cache."""
        batch = len(case.padding)
        arrays = {self.tokens.name: _zeros(self.tokens, [batch, case.seq])}
        if self.mask is not None:
            arrays[self.mask.name] = case.mask.astype(self.mask.dtype)
        if self.positions is not None:
            given = case.positions if len(self.positions.shape) == 2 else np.arange(case.seq) + case.past
            arrays[self.positions.name] = given.astype(self.positions.dtype)
        for layer in self.layers:
            for name in layer.past:
                arrays[name] = _zeros(self.inputs[name], [batch, None, case.past])
        return arrays


def _zeros(tensor: gs.Tensor, leading: Sequence[int | None]) -> np.ndarray[Any, Any]:
    """Return zeros of a tensor's shape, with its first axes replaced where a size is given."""
    sizes = [*leading, *[None] * (len(tensor.shape) - len(leading))]
    shape = [int(own) if size is None else size for size, own in zip(sizes, tensor.shape, strict=True)]
    return np.zeros(shape, tensor.dtype)


def read_interface(graph: gs.Graph) -> Interface:
    """Return what the inputs and outputs of a graph in semantic operators are.

    Raises:
        NotADecoderError: naming what is missing or unknown.
        NotHalfPrecisionError: its cache, embeddings or logits have another type than float16.
    """
    inputs = {tensor.name: tensor for tensor in graph.inputs}
    nodes = [node for node in graph.nodes if semantic(node, "Attention")]
    if not nodes:
        raise NotADecoderError("no attention was found in the graph (--target onnx prints what almost was one)")
    layers = [_layer(node, inputs) for node in nodes]
    caches = [name for layer in layers for name in layer.past]
    if len(set(caches)) != len(caches) or len(caches) not in (0, 2 * len(layers)):
        without = next((layer.node.name for layer in layers if not layer.past), "")
        reason = (
            f"the attention {without!r} appends to no cache of its own" if without else "two attentions share a cache"
        )
        raise NotADecoderError(reason)
    rest = [tensor for tensor in graph.inputs if tensor.name not in caches]
    tokens = _tokens(graph, rest)
    mask, positions = (_named(rest, word) for word in ("mask", "position"))
    known = {id(tensor) for tensor in (tokens, mask, positions)}
    for tensor in rest:
        if id(tensor) not in known:
            reason = f"its input {tensor.name!r} is none of ids, mask, positions and cache"
            raise NotADecoderError(reason)
    return Interface(
        inputs=inputs,
        tokens=tokens,
        mask=mask,
        positions=positions,
        layers=layers,
        logits=_logits(graph, layers),
        opset=int(graph.opset),
    )


def _layer(node: gs.Node, inputs: Mapping[str, gs.Tensor]) -> Layer:
    past: list[str] = []
    present: list[str] = []
    for tensor in node.inputs[1:3]:
        append = tensor.inputs[0] if tensor.inputs else None
        if append is not None and joins_cache(append, inputs):
            past.append(append.inputs[0].name)
            present.append(tensor.name)
            _require_half(append.inputs[0])
    return Layer(node=node, past=tuple(past), present=tuple(present))


def joins_cache(node: gs.Node, inputs: Mapping[str, gs.Tensor]) -> bool:
    """Say whether a node appends new keys or values to an input of the graph."""
    if node.op != "Concat" or node.domain or len(node.inputs) != 2 or node.attrs.get("axis") not in (-2, 2):
        return False
    return node.inputs[0].name in inputs and len(node.inputs[0].shape or ()) == 4


def _tokens(graph: gs.Graph, inputs: Sequence[gs.Tensor]) -> gs.Tensor:
    """Return the input that is looked up in a table of embeddings, or holds embeddings.

    Raises:
        NotADecoderError: there is none, or one of another form.
    """
    floats = [tensor for tensor in inputs if np.issubdtype(tensor.dtype, np.floating) and len(tensor.shape or ()) == 3]
    looked_up = [node for node in graph.nodes if _looks_up(node, inputs)]
    if len(looked_up) + len(floats) != 1:
        reason = (
            f"{len(looked_up)} lookups of ids in a table and {len(floats)} inputs [batch, seq, hidden] were found, "
            "instead of one of them"
        )
        raise NotADecoderError(reason)
    tokens = floats[0] if floats else looked_up[0].inputs[1]
    _require_half(floats[0] if floats else looked_up[0].inputs[0])
    if isinstance(tokens.shape[1], int):
        reason = f"its input {tokens.name!r} has a fixed length of {tokens.shape[1]}"
        raise NotADecoderError(reason)
    return tokens


def _looks_up(node: gs.Node, inputs: Sequence[gs.Tensor]) -> bool:
    if node.op != "Gather" or node.domain or int(node.attrs.get("axis", 0)) != 0:
        return False
    table, ids = node.inputs
    return any(ids is tensor for tensor in inputs) and not table.inputs and len(table.shape or ()) == 2


def _named(inputs: Sequence[gs.Tensor], word: str) -> gs.Tensor | None:
    """Return the input of one or two axes whose name holds a word."""
    found = [tensor for tensor in inputs if word in tensor.name.lower() and len(tensor.shape or ()) in (1, 2)]
    return found[0] if len(found) == 1 else None


def _logits(graph: gs.Graph, layers: Sequence[Layer]) -> gs.Tensor:
    """Return the one output that is not a cache.

    Raises:
        NotADecoderError: there are several, or it is not ``[batch, seq, vocab]``.
    """
    present = {name for layer in layers for name in layer.present}
    others = [tensor for tensor in graph.outputs if tensor.name not in present]
    if len(others) != 1 or len(others[0].shape or ()) != 3 or not isinstance(others[0].shape[-1], int):
        names = ", ".join(repr(tensor.name) for tensor in others)
        reason = f"its outputs besides the cache have to be logits [batch, seq, vocab], and are {names}"
        raise NotADecoderError(reason)
    return others[0]


def _require_half(tensor: gs.Tensor) -> None:
    if tensor.dtype is None or np.dtype(tensor.dtype) != np.float16:
        raise NotHalfPrecisionError(tensor.name, np.dtype(tensor.dtype).name if tensor.dtype is not None else "unknown")
