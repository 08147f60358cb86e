"""Which checkpoint tensors make a parameter, where transformers renames, stacks or concatenates them on loading.

transformers' own conversion rules decide about names; nothing is loaded.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.tracing.errors import UnsupportedConversionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from transformers import PreTrainedModel

_STACKED: Final = [("MergeModulelist", 0)]
_STACKED_PAIRS: Final = [("MergeModulelist", 0), ("Concatenate", 1)]
_JOINED: Final = [("Concatenate", 0)]


def parameter_sources(model: PreTrainedModel, tensor_names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the tensors of each parameter that does not simply have its own name.

    Stacked experts ``[experts, …]`` are their tensors one after the other; stacked pairs (gate and up) alternate:
    gate 0, up 0, gate 1, up 1, …. In memory both are plain concatenations along axis 0.

    Args:
        model: the model, at full depth.
        tensor_names: all tensors of the checkpoint.

    Raises:
        UnsupportedConversionError: transformers would compute a parameter in a way that can't be streamed.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    state: dict[str, Any] = model.state_dict()
    if all(name in state for name in tensor_names):
        return {}
    transforms: list[Any] = get_model_conversion_mapping(model)
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    found: dict[str, list[tuple[str, str | None]]] = {}
    for name in tensor_names:
        target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if target in state and target != name:
            found.setdefault(target, []).append((name, pattern))
    return {target: _ordered(target, sources, by_pattern) for target, sources in found.items()}


def _ordered(target: str, sources: list[tuple[str, str | None]], by_pattern: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a parameter's tensors in the order in which they lie in it."""
    pattern = sources[0][1]
    if pattern is None:
        return tuple(name for name, _pattern in sources)
    converter = by_pattern[pattern]
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
