"""Strict accounting: every parameter gets a tensor, and every tensor of the checkpoint is used or ignored by name."""

from __future__ import annotations

import difflib
import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

from edgellm_core.weights.cast import can_cast
from edgellm_core.weights.errors import (
    SHOWN,
    MissingTensorsError,
    ShapeMismatchError,
    UnexpectedTensorsError,
    UnsupportedCastError,
)
from edgellm_core.weights.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from edgellm_core.checkpoint.tensors import TensorIndex

NONE_TIED: Final[Mapping[str, str]] = MappingProxyType({})
NO_SOURCES: Final[Mapping[str, Sequence[str]]] = MappingProxyType({})


class ParameterSpec(Protocol):
    """Element type (safetensors' spelling) and shape of a parameter of the graph."""

    @property
    def element_type(self) -> str:
        """For example ``F16``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions; ``()`` for a scalar."""


def account(
    parameters: Mapping[str, ParameterSpec],
    tensors: TensorIndex,
    *,
    sources: Mapping[str, Sequence[str]] = NO_SOURCES,
    tied: Mapping[str, str] = NONE_TIED,
    ignored: Sequence[str] = (),
) -> list[Recipe]:
    """Return how each parameter is made from the checkpoint, in the order in which the tensors lie on disk.

    A checkpoint that was saved from the model without its head (``layers.0…`` where the model says
    ``model.layers.0…``) is accepted when one prefix makes all of its names fit. Of a group of tied tensors any member
    will do, and all members that the checkpoint holds count as used.

    Args:
        parameters: the graph's parameters by their name in the transformers model.
        tensors: all tensors of the checkpoint.
        sources: name of a parameter → the tensors that make it, joined along axis 0, where it has no tensor of its own
            name; a stack ``[n, …]`` is its n parts one after the other.
        tied: name of a parameter → name of the one whose storage it shares.
        ignored: regular expressions (full match) of tensors that the graph does not need.

    Raises:
        MissingTensorsError: a parameter has no tensor.
        UnexpectedTensorsError: a tensor is neither used nor ignored.
        ShapeMismatchError: a tensor has another shape than its parameter.
        UnsupportedCastError: a tensor's element type can't become its parameter's.
    """
    needless = full_match(ignored)
    groups = _tied_groups(tied)
    prefix = model_prefix(tensors, {*parameters, *groups}, needless)
    stored: dict[str, tuple[str, ...]] = {prefix + name: (name,) for name in tensors}
    stored.update({name: tuple(parts) for name, parts in sources.items()})
    found: dict[str, tuple[str, ...]] = {}
    used: set[str] = set()
    for name in parameters:
        members = [name, *groups.get(name, ())]
        present = [stored[member] for member in members if member in stored]
        if present:
            found[name] = present[0]
            used.update(part for parts in present for part in parts)
    unexpected = [
        name
        for name in tensors
        if name not in used and not (needless.fullmatch(name) or needless.fullmatch(prefix + name))
    ]
    _refuse_missing([name for name in parameters if name not in found], unexpected)
    if unexpected:
        raise UnexpectedTensorsError(sorted(unexpected))
    _refuse_other_shapes(parameters, found, tensors)
    return _recipes(parameters, found, tensors)


def full_match(patterns: Iterable[str]) -> re.Pattern[str]:
    """Return one expression that matches what any of the patterns matches."""
    joined = "|".join(f"(?:{pattern})" for pattern in patterns)
    return re.compile(joined or r"(?!)")  # (?!) matches nothing


def _tied_groups(tied: Mapping[str, str]) -> dict[str, list[str]]:
    """Return each name of a group → the names of the whole group, the canonical one first."""
    groups: dict[str, list[str]] = {}
    for alias, canonical in tied.items():
        members = groups.setdefault(canonical, [canonical])
        members.append(alias)
        groups[alias] = members
    return groups


def model_prefix(tensors: Collection[str], wanted: set[str], needless: re.Pattern[str]) -> str:
    """Return what must stand before all names of the checkpoint to make them the model's; mostly nothing."""
    names = [name for name in tensors if not needless.fullmatch(name)]
    if not names or any(name in wanted for name in names):
        return ""
    candidates = {name.removesuffix(names[0]) for name in wanted if name.endswith("." + names[0])}
    for prefix in sorted(candidates):
        if all(prefix + name in wanted or needless.fullmatch(prefix + name) for name in names):
            return prefix
    return ""


def _refuse_missing(missing: Sequence[str], unused: Sequence[str]) -> None:
    if not missing:
        return
    nearest = {}
    for name in missing[:SHOWN]:
        close = difflib.get_close_matches(name, unused, n=1, cutoff=0.8)
        if close:
            nearest[name] = close[0]
    raise MissingTensorsError(missing, nearest)


def _refuse_other_shapes(
    parameters: Mapping[str, ParameterSpec], sources: Mapping[str, tuple[str, ...]], tensors: TensorIndex
) -> None:
    mismatches = [
        (parts[0], joined, parameters[name].shape)
        for name, parts in sources.items()
        if (joined := _joined_shape([tensors[part].shape for part in parts], parameters[name].shape))
        != tuple(parameters[name].shape)
    ]
    if mismatches:
        raise ShapeMismatchError(mismatches)


def _joined_shape(parts: Sequence[tuple[int, ...]], wanted: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of parts joined along axis 0; stacked along a new axis where ``wanted`` has one more."""
    first = tuple(parts[0])
    if len(parts) == 1 or any(tuple(part[1:]) != first[1:] for part in parts):
        return first
    rows = sum(part[0] for part in parts)
    if len(wanted) == len(first) + 1 and wanted[0] and rows % wanted[0] == 0:
        return (wanted[0], rows // wanted[0], *first[1:])
    return (rows, *first[1:])


def _recipes(
    parameters: Mapping[str, ParameterSpec], sources: Mapping[str, tuple[str, ...]], tensors: TensorIndex
) -> list[Recipe]:
    recipes = []
    for name, parts in sources.items():
        element_type = parameters[name].element_type
        for part in parts:
            if not can_cast(tensors[part].element_type, element_type):
                raise UnsupportedCastError(part, tensors[part].element_type, element_type)
        shape = tuple(parameters[name].shape)
        recipes.append(Recipe(name=name, element_type=element_type, shape=shape, sources=parts))

    return in_disk_order(recipes, tensors)


def in_disk_order(recipes: Iterable[Recipe], tensors: TensorIndex) -> list[Recipe]:
    """Return recipes in the order in which their tensors lie on disk: front to back lets it read ahead."""

    def position(recipe: Recipe) -> tuple[str, int]:
        entry = tensors[recipe.sources[0]]
        return str(entry.file), entry.offset

    return sorted(recipes, key=position)
