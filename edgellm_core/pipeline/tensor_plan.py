"""Where every tensor of a checkpoint goes: into the graph, into a table beside it, or nowhere, for a reason."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgellm_core.weights.left_out import NOT_READ, LeftOut, grouped, reason_to_leave_out

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.contract import ModelFamily
    from edgellm_core.pipeline.export import LoweredGraph
    from edgellm_core.tracing.template import Template
    from edgellm_core.weights.accounting import TiedPair
    from edgellm_core.weights.recipe import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorPlan:
    """Where every tensor of a checkpoint goes.

    Attributes:
        recipes: initializers of the graph, in the order in which their tensors lie on disk.
        tables: what lies in files of its own beside the graph, by path.
        tied: tensors of one parameter that must be equal.
        left_out: what is in neither, in groups.
    """

    recipes: Sequence[Recipe]
    tables: Mapping[str, Recipe]
    tied: Sequence[TiedPair]
    left_out: Sequence[LeftOut]


def plan_tensors(lowered: LoweredGraph, template: Template, checkpoint: Checkpoint, family: ModelFamily) -> TensorPlan:
    """Account for every tensor of a checkpoint; reads no weights.

    Raises:
        UserError: a tensor is missing, misshapen, of a type that can't be cast, or unused for no known reason.
    """
    from edgellm_core.weights.accounting import account, in_disk_order
    from edgellm_core.weights.joined import join_recipes

    quantized = {name for recipe in lowered.recipes for name in (recipe.name, *recipe.sources)}
    used = {name for node in lowered.model.graph.node for name in node.input}
    stacked = {*lowered.quantized.linears, *lowered.quantized.experts}
    replaced = {weight for weight in stacked if weight not in used} | quantized
    parameters = {name: spec for name, spec in template.stamped_parameters().items() if name not in replaced}
    taken = {*quantized, *lowered.quantized.caches.values(), *lowered.quantized.queries.values()}
    accounted = account(
        parameters,
        {name: entry for name, entry in checkpoint.tensors.items() if name not in taken},
        sources=template.sources,
        tied=template.tied,
        may_leave_out=lambda entry: reason_to_leave_out(entry, template.left_out, family.ignored_tensors, family.name),
    )
    by_name = {recipe.name: recipe for recipe in accounted.recipes}
    parts = {part.parameter for joined in lowered.joins.values() for part in joined}
    apart = {table.parameter for table in lowered.tables.values()}
    idle = [recipe for name, recipe in by_name.items() if name not in {*used, *parts, *apart}]
    read = {source for name, recipe in by_name.items() if name in {*used, *parts, *apart} for source in recipe.sources}
    reasons = {source: NOT_READ for recipe in idle for source in recipe.sources if source not in read}
    plain = [recipe for name, recipe in by_name.items() if name in used]
    recipes = [*plain, *join_recipes(accounted.recipes, lowered.joins), *lowered.recipes]
    return TensorPlan(
        recipes=in_disk_order(recipes, checkpoint.tensors),
        tables={path: replace(by_name[table.parameter], factor=table.factor) for path, table in lowered.tables.items()},
        tied=accounted.tied,
        left_out=grouped({**accounted.left_out, **reasons}, checkpoint.tensors),
    )
