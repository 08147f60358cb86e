"""Strict accounting: every parameter gets a tensor, every tensor of the checkpoint is used or left out for a reason."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

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
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from edgellm_core.checkpoint.tensors import TensorEntry, TensorIndex

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


class TiedPair(NamedTuple):
    """Two tensors of one parameter.

    Attributes:
        first: name of the tensor that the parameter is made of.
        second: name of the other one.
        element_type: of the parameter, for example ``F16``.
    """

    first: str
    second: str
    element_type: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """Where every tensor of a checkpoint goes.

    Attributes:
        recipes: how each parameter is made, in the order in which the tensors lie on disk.
        left_out: tensors that no parameter takes, and why they may be left out.
        tied: tensors of one parameter that must be equal.
    """

    recipes: list[Recipe]
    left_out: Mapping[str, str]
    tied: tuple[TiedPair, ...]


def account(
    parameters: Mapping[str, ParameterSpec],
    tensors: TensorIndex,
    *,
    sources: Mapping[str, Sequence[str]] = NO_SOURCES,
    tied: Mapping[str, str] = NONE_TIED,
    may_leave_out: Callable[[TensorEntry], str] = lambda _entry: "",
) -> Account:
    """Return how each parameter is made from the checkpoint, and what becomes of every other tensor.

    Of a group of tied tensors any member will do, and all members that the checkpoint holds count as used.

    Args:
        parameters: the graph's parameters by their name in the transformers model.
        tensors: all tensors of the checkpoint.
        sources: name of a parameter → the tensors that make it, joined along axis 0, where it has no tensor of its own
            name; a stack ``[n, …]`` is its n parts one after the other.
        tied: name of a parameter → name of the one whose storage it shares.
        may_leave_out: returns why the graph does not need a tensor; nothing for one that has to be used.

    Raises:
        MissingTensorsError: a parameter has no tensor.
        UnexpectedTensorsError: a tensor is neither used nor may it be left out.
        ShapeMismatchError: a tensor has another shape than its parameter.
        UnsupportedCastError: a tensor's element type can't become its parameter's.
    """
    groups = _tied_groups(tied)
    stored: dict[str, tuple[str, ...]] = {name: (name,) for name in tensors}
    stored.update({name: tuple(parts) for name, parts in sources.items()})
    found: dict[str, tuple[str, ...]] = {}
    pairs: list[TiedPair] = []
    used: set[str] = set()
    for name, spec in parameters.items():
        members = [name, *(other for other in groups.get(name, ()) if other != name)]
        present = [stored[member] for member in members if member in stored]
        if present:
            found[name] = present[0]
            used.update(part for parts in present for part in parts)
            copies = (pair for parts in present[1:] for pair in zip(present[0], parts, strict=True))
            pairs += [TiedPair(first, second, spec.element_type) for first, second in copies]
    reasons = {name: may_leave_out(entry) for name, entry in tensors.items() if name not in used}
    unexpected = [name for name, why in reasons.items() if not why]
    _refuse_missing([name for name in parameters if name not in found], unexpected)
    if unexpected:
        raise UnexpectedTensorsError(sorted(unexpected))
    _refuse_other_shapes(parameters, found, tensors)
    recipes = _recipes(parameters, found, tensors)
    return Account(recipes=recipes, left_out={name: why for name, why in reasons.items() if why}, tied=tuple(pairs))


def _tied_groups(tied: Mapping[str, str]) -> dict[str, list[str]]:
    """Return each name of a group → the names of the whole group, the canonical one first."""
    groups: dict[str, list[str]] = {}
    for alias, canonical in tied.items():
        members = groups.setdefault(canonical, [canonical])
        members.append(alias)
        groups[alias] = members
    return groups


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
