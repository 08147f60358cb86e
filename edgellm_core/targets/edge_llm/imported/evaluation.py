"""Numbers that a graph computes from sizes, masks and positions alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from edgellm_core.errors import one_line
from edgellm_core.targets.edge_llm.imported.errors import NotComputableError
from edgellm_core.targets.edge_llm.imported.interface import Case

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgellm_core.targets.edge_llm.imported.interface import Interface

Array = np.ndarray[Any, Any]


def evaluate(tensors: Sequence[gs.Tensor], case: Case, interface: Interface) -> list[Array]:
    """Return the values of tensors that need no weights, computed by ONNX Runtime.

    Args:
        tensors: what to compute.
        case: sizes, padding and positions.
        interface: the graph's inputs.

    Raises:
        NotComputableError: one of them depends on weights, or ONNX Runtime stops.
    """
    part = _Part(interface, case)
    for tensor in tensors:
        part.require(tensor)
    return part.run(tensors)


def nodes_before(tensor: gs.Tensor, interface: Interface) -> list[gs.Node]:
    """Return the nodes that a tensor depends on, in order.

    Raises:
        NotComputableError: it depends on weights.
    """
    part = _Part(interface, Case(seq=2))
    part.require(tensor)
    return part.nodes


class _Part:
    """The part of a graph that some tensors depend on."""

    def __init__(self, interface: Interface, case: Case) -> None:
        self.nodes: list[gs.Node] = []
        self._opset = interface.opset
        self._feeds = interface.feeds(case)
        self._sizes = _sizes(self._feeds, interface.inputs)
        self._leaves: dict[str, tuple[gs.Tensor, Array]] = {}
        self._seen: set[int] = set()

    def require(self, tensor: gs.Tensor) -> None:
        """Add the nodes before a tensor, each after those that it needs."""
        waiting: list[tuple[gs.Tensor, bool]] = [(tensor, False)]
        while waiting:
            current, ready = waiting.pop()
            if ready:
                self.nodes.append(current.inputs[0])
            elif id(current) not in self._seen and self._opened(current):
                waiting.append((current, True))
                waiting.extend((source, False) for source in current.inputs[0].inputs if not source.is_empty())

    def _opened(self, tensor: gs.Tensor) -> bool:
        """Say whether a tensor's node is needed; inputs, constants and known shapes are leaves."""
        maker = tensor.inputs[0] if tensor.inputs else None
        siblings = [tensor] if maker is None else maker.outputs
        self._seen.update(map(id, siblings))
        if isinstance(tensor, gs.Constant):
            return False
        if tensor.name in self._feeds:
            self._leaves[tensor.name] = tensor, self._feeds[tensor.name]
            return False
        if maker is None or maker.domain:
            raise NotComputableError(tensor.name if maker is None else maker.name)
        shape = self._known_shape(maker)
        if shape is not None:
            tensor.dtype = np.int64
            self._leaves[tensor.name] = tensor, shape
            return False
        return True

    def _known_shape(self, node: gs.Node) -> Array | None:
        """Return the result of a ``Shape`` whose symbols are those of inputs, so that its own input is not needed."""
        source = node.inputs[0] if node.op == "Shape" else None
        if source is None or source.shape is None or source.name in self._feeds:
            return None
        sizes = [size if isinstance(size, int) else self._sizes.get(str(size)) for size in source.shape]
        chosen = sizes[node.attrs.get("start", 0) : node.attrs.get("end")]
        return None if None in chosen else np.array(chosen, np.int64)

    def run(self, tensors: Sequence[gs.Tensor]) -> list[Array]:
        """Return the values of tensors."""
        import onnxruntime

        leaves = [tensor for tensor, _ in self._leaves.values()]
        made = [tensor for tensor in tensors if tensor.name not in self._leaves]
        graph = gs.Graph(nodes=self.nodes, inputs=leaves, outputs=made, opset=self._opset)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        feeds = {name: value for name, (_, value) in self._leaves.items()}
        try:
            model = _without_output_types(gs.export_onnx(graph))
            session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            results = session.run([tensor.name for tensor in made], feeds) if made else []
        except Exception as error:  # the exceptions of ONNX Runtime share no base but Exception
            raise NotComputableError(one_line(error)) from error
        values = dict(zip((tensor.name for tensor in made), results, strict=True)) | feeds
        return [values[tensor.name] for tensor in tensors]


def _without_output_types(model: Any) -> bytes:
    """Return a model whose outputs have no types of their own: ONNX Runtime infers them."""
    import onnx

    names = [output.name for output in model.graph.output]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    del model.graph.value_info[:]
    model.ir_version = 11
    serialized: bytes = model.SerializeToString()
    return serialized


def _sizes(feeds: Mapping[str, Array], inputs: Mapping[str, gs.Tensor]) -> dict[str, int]:
    """Return the sizes of the symbols of inputs."""
    return {
        str(symbol): size
        for name, array in feeds.items()
        for symbol, size in zip(inputs[name].shape, array.shape, strict=True)
    }
