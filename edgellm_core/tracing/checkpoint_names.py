"""Which checkpoint tensors make a parameter, where transformers renames, stacks or concatenates them on loading.

transformers' own conversion rules decide about names; nothing is loaded.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from edgellm_core.tracing.errors import SeveralTensorsError, UnsupportedConversionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from transformers import PreTrainedModel

_STACKED: Final = [("MergeModulelist", 0)]
_STACKED_PAIRS: Final = [("MergeModulelist", 0), ("Concatenate", 1)]
_JOINED: Final = [("Concatenate", 0)]


class LoadedName(NamedTuple):
    """Where transformers loads a tensor to.

    Attributes:
        target: name of the parameter; where the model has none of it, the name that it would have.
        pattern: of the conversion that makes the parameter of this tensor and others; None for a mere name.
    """

    target: str
    pattern: str | None


def loaded_names(model: PreTrainedModel, tensor_names: Iterable[str]) -> dict[str, LoadedName]:
    """Return where transformers loads each tensor (5.23, ``convert_and_load_state_dict_in_model``).

    Args:
        model: the model, at full depth.
        tensor_names: all tensors of the checkpoint.
    """
    from transformers.core_model_loading import rename_source_key

    state: dict[str, Any] = model.state_dict()
    names = list(tensor_names)
    if all(name in state for name in names):
        return {name: LoadedName(name, None) for name in names}
    converters, renamings = _conversions(model)
    found = {}
    for name in names:
        target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if target not in state and name in state:
            target, pattern = rename_source_key(name, [], [], model.base_model_prefix, state)
        found[name] = LoadedName(target, pattern)
    return found


def _conversions(model: PreTrainedModel) -> tuple[list[Any], list[Any]]:
    """Return transformers' converters and renamings for a model."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming

    transforms: list[Any] = get_model_conversion_mapping(model)
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    return converters, [transform for transform in transforms if isinstance(transform, WeightRenaming)]


def parameter_sources(model: PreTrainedModel, names: Mapping[str, LoadedName]) -> dict[str, tuple[str, ...]]:
    """Return the tensors of each parameter that does not simply have its own name.

    Stacked experts ``[experts, …]`` are their tensors one after the other; stacked pairs (gate and up) alternate:
    gate 0, up 0, gate 1, up 1, …. In memory both are plain concatenations along axis 0.

    Args:
        model: the model, at full depth.
        names: from ``loaded_names``.

    Raises:
        UnsupportedConversionError: transformers would compute a parameter in a way that can't be streamed.
        SeveralTensorsError: the checkpoint holds a parameter under several names.
    """
    if all(name == loaded.target for name, loaded in names.items()):
        return {}
    state: dict[str, Any] = model.state_dict()
    by_pattern = {pattern: converter for converter in _conversions(model)[0] for pattern in converter.source_patterns}
    found: dict[str, list[tuple[str, str | None]]] = {}
    for name, (target, pattern) in names.items():
        if target in state:
            found.setdefault(target, []).append((name, pattern))
    return {
        target: _ordered(target, sources, by_pattern)
        for target, sources in found.items()
        if [name for name, _pattern in sources] != [target]
    }


def _ordered(target: str, sources: Sequence[tuple[str, str | None]], by_pattern: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a parameter's tensors in the order in which they lie in it."""
    pattern = sources[0][1]
    if any(other is None for _name, other in sources):
        if len(sources) > 1:
            raise SeveralTensorsError(target, [name for name, _pattern in sources])
        return (sources[0][0],)
    converter = by_pattern[str(pattern)]
    operations = [(type(op).__name__, getattr(op, "dim", None)) for op in converter.operations]
    places = {pattern: index for index, pattern in enumerate(converter.source_patterns)}
    if len(converter.target_patterns) > 1 or operations not in (_STACKED, _STACKED_PAIRS, _JOINED):
        raise UnsupportedConversionError(target, [name for name, _dim in operations])

    def place(source: tuple[str, str | None]) -> tuple[list[int], int]:
        name, pattern = source
        return [int(digits) for digits in re.findall(r"\d+", name)], places[str(pattern)]

    if operations == _JOINED:
        return tuple(name for name, pattern in sorted(sources, key=lambda source: places[str(source[1])]))
    return tuple(name for name, _pattern in sorted(sources, key=place))
