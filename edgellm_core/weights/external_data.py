"""Names the data file in the graph: adds each initializer as a tensor that is stored outside."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from edgellm_core.weights.errors import InitializerBindingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx

    from edgellm_core.weights.binder import Layout
    from edgellm_core.weights.recipe import Recipe

ONNX_TYPES: Final = {
    "F64": "DOUBLE", "F32": "FLOAT", "F16": "FLOAT16", "BF16": "BFLOAT16",
    "F8_E4M3": "FLOAT8E4M3FN", "F8_E5M2": "FLOAT8E5M2",
    "I64": "INT64", "I32": "INT32", "I16": "INT16", "I8": "INT8",
    "U64": "UINT64", "U32": "UINT32", "U16": "UINT16", "U8": "UINT8", "BOOL": "BOOL",
    "I4": "INT4", "U4": "UINT4", "F4_E2M1": "FLOAT4E2M1",
}  # fmt: skip
"""safetensors' element type, or one of ``PAIRED_TYPES`` → name in ``onnx.TensorProto.DataType``."""


def attach(
    model: onnx.ModelProto, recipes: Sequence[Recipe], layout: Layout, location: str = "model.onnx.data"
) -> None:
    """Add the initializers to a graph whose parameters are names without a value.

    Args:
        model: changed in place.
        recipes: the initializers.
        layout: where they lie in the data file.
        location: name of the data file, in the folder of the model.

    Raises:
        InitializerBindingError: two initializers have one name, one is not used, or a name has no value.
    """
    import onnx

    graph = model.graph
    present = Counter([tensor.name for tensor in graph.initializer] + [recipe.name for recipe in recipes])
    twice = [name for name, count in present.items() if count > 1]
    if twice:
        raise InitializerBindingError("More than one initializer has the name", twice)
    used, defined = set(_used(graph)), set(_defined(graph))
    idle = [recipe.name for recipe in recipes if recipe.name not in used]
    if idle:
        raise InitializerBindingError("The graph does not use", idle)
    unbound = sorted(used - defined - {recipe.name for recipe in recipes})
    if unbound:
        raise InitializerBindingError("The graph uses names that nothing defines", unbound)
    for recipe in recipes:
        slot = layout.slots[recipe.name]
        tensor = graph.initializer.add()
        tensor.name = recipe.name
        tensor.data_type = onnx.TensorProto.DataType.Value(ONNX_TYPES[recipe.element_type])
        tensor.dims.extend(recipe.shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", slot.offset), ("length", slot.nbytes)):
            tensor.external_data.add(key=key, value=str(value))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and the graphs in its nodes' attributes (branches, loop bodies)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _graphs(inner)


def _used(graph: onnx.GraphProto) -> Iterator[str]:
    for inner in _graphs(graph):
        for node in inner.node:
            yield from (name for name in node.input if name)  # "" marks an optional input that is left out
        yield from (value.name for value in inner.output)


def _defined(graph: onnx.GraphProto) -> Iterator[str]:
    for inner in _graphs(graph):
        yield from (value.name for value in inner.input)
        yield from (tensor.name for tensor in inner.initializer)
        yield from (tensor.values.name for tensor in inner.sparse_initializer)
        for node in inner.node:
            yield from node.output
