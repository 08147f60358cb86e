"""Parameters that the graph only joins or reorders: the join moves into the recipe of one initializer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgellm_core.weights.errors import RecipeMismatchError
from edgellm_core.weights.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx


@dataclass(frozen=True, slots=True)
class Part:
    """One parameter of a join.

    Attributes:
        parameter: its name.
        order: the order in which its rows are taken; empty for its own.
        of_items: the rows are those of each item of a stack ``[n, rows, …]``; such a part is never joined to others.
    """

    parameter: str
    order: tuple[int, ...] = ()
    of_items: bool = False


Joins = dict[str, tuple[Part, ...]]
"""Name of an initializer → the parameters that it is joined of along axis 0."""


def fold_joins(model: onnx.ModelProto, parameters: Mapping[str, Sequence[int]]) -> Joins:
    """Take joins of parameters out of a graph: ``Gather(p, constant)`` and ``Concat(p, …)``, both along axis 0.

    ``Gather(stack, constant)`` along axis 1, of three axes and more, is one too.

    Args:
        model: changed in place; what such a node made becomes a name without a value, like the parameters.
        parameters: names without a value, and their shapes.

    Returns:
        How the new names are made.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    made: Joins = {}
    kept = []
    for node in model.graph.node:
        axis = next((int(item.i) for item in node.attribute if item.name == "axis"), 0)
        parts = [made.get(name) or ((Part(name),) if name in parameters else ()) for name in node.input]
        flat = [part for one in parts for part in one]
        if node.op_type == "Concat" and axis == 0 and all(parts) and not any(part.of_items for part in flat):
            made[node.output[0]] = tuple(flat)
        elif (
            node.op_type == "Gather"
            and (shape := parameters.get(node.input[0])) is not None
            and (axis == 0 or (axis == 1 and len(shape) > 2))
            and (order := _order(constants.get(node.input[1])))
        ):
            made[node.output[0]] = (Part(node.input[0], order, of_items=axis == 1),)
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    values = [value for value in model.graph.value_info if value.name not in made]
    initializers = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.value_info[:], model.graph.initializer[:]
    model.graph.value_info.extend(values)
    model.graph.initializer.extend(initializers)
    return {name: parts for name, parts in made.items() if name in used}


def _order(indices: onnx.TensorProto | None) -> tuple[int, ...]:
    """Return a constant that puts rows into another order; empty for anything else, like a choice of rows."""
    from onnx import numpy_helper

    array = numpy_helper.to_array(indices) if indices is not None else None
    if array is None or array.ndim != 1:
        return ()
    order = tuple(array.tolist())
    return order if sorted(order) == list(range(len(order))) else ()


def join_recipes(recipes: Sequence[Recipe], joins: Mapping[str, tuple[Part, ...]]) -> list[Recipe]:
    """Return the recipes of joined initializers.

    Args:
        recipes: how each parameter is made.
        joins: what :func:`fold_joins` returned.

    Raises:
        RecipeMismatchError: a parameter that is itself made of several tensors would be reordered, or cut.
    """
    by_name = {recipe.name: recipe for recipe in recipes}
    return [
        _restacked(name, by_name[parts[0].parameter], parts[0].order)
        if parts[0].of_items
        else _joined(name, [(by_name[part.parameter], part.order) for part in parts])
        for name, parts in joins.items()
    ]


def _restacked(name: str, recipe: Recipe, order: tuple[int, ...]) -> Recipe:
    if len(order) != recipe.shape[1]:
        raise RecipeMismatchError(name, recipe.shape, [(source, recipe.shape) for source in recipe.sources])
    return replace(recipe, name=name, stack_order=order)


def _joined(name: str, parts: Sequence[tuple[Recipe, tuple[int, ...]]]) -> Recipe:
    first = parts[0][0]
    shape = (sum(recipe.shape[0] for recipe, _ in parts), *first.shape[1:])
    for recipe, order in parts:
        if order and (len(recipe.sources) > 1 or len(order) != recipe.shape[0]):
            raise RecipeMismatchError(name, shape, [(source, recipe.shape) for source in recipe.sources])
    orders = tuple(order for recipe, order in parts for _ in recipe.sources)
    return Recipe(
        name=name,
        element_type=first.element_type,
        shape=shape,
        sources=tuple(source for recipe, _ in parts for source in recipe.sources),
        row_orders=orders if any(orders) else (),
    )
