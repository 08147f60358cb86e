"""Which layers of a model its twin has: one or two of each kind."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from edgellm_core.tracing.layers import find_stack
from edgellm_core.verification.twin.sizes import parts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn
    from transformers import PreTrainedModel

    from edgellm_core.verification.twin.sizes import Fields

Kind = tuple[object, ...]


def layer_kinds(model: PreTrainedModel) -> list[Kind]:
    """Return what each decoder layer is, without its sizes: type, classes, and what it switches on or off."""
    _, layers = find_stack(model)
    types = getattr(model.config.get_text_config(), "layer_types", None)
    named = types if types and len(types) == len(layers) else [None] * len(layers)
    return [(name, *_classes(layer)) for name, layer in zip(named, layers, strict=True)]


def _classes(layer: nn.Module) -> Iterator[object]:
    for name, module in layer.named_modules():
        if not name.rpartition(".")[2].isdigit():  # one expert of many
            switches = [
                (key, str(value))
                for key, value in sorted(vars(module).items())
                if not key.startswith("_") and key != "training" and isinstance(value, bool | str | None)
            ]
            yield name, type(module).__qualname__, tuple(switches)


def chosen_layers(kinds: Sequence[Kind]) -> list[int]:
    """Return the first and last layer of each kind, ascending."""
    last = len(kinds) - 1
    return sorted({place for kind in set(kinds) for place in (kinds.index(kind), last - kinds[::-1].index(kind))})


def layer_choices(kinds: Sequence[Kind]) -> Iterator[list[int]]:
    """Yield choices of layers, the fewest first: of each kind, those up to the last new kind, all."""
    depth = len(kinds)
    newest = max((kinds.index(kind) for kind in set(kinds)), default=0)
    yield chosen_layers(kinds)
    yield list(range(min(depth, max(2, newest + 2))))
    yield list(range(depth))


def with_layers(fields: Fields, layers: Sequence[int], depth: int, depth_keys: Sequence[str]) -> Iterator[Fields]:
    """Yield configs with only these layers: what is stated for each layer is cut, and counts of layers are recounted.

    A count can mean the first layers or the last ones, or be none; the caller compares the kinds that come out.

    Args:
        fields: the config.
        layers: the layers that stay, ascending.
        depth: layers of the whole model.
        depth_keys: names of the key with the number of layers.
    """
    for count in (None, _first, _last):
        result = copy.deepcopy(fields)
        for part in parts(result):
            for key, value in list(part.items()):
                part[key] = _kept(key, value, layers, depth)
                if key in depth_keys and value == depth:
                    part[key] = len(layers)
                elif count and _counts_layers(key, value, depth):
                    part[key] = count(layers, value, depth)
        yield result


def _kept(key: str, value: Any, layers: Sequence[int], depth: int) -> Any:
    if isinstance(value, list) and len(value) == depth > 1:
        return [value[index] for index in layers]
    if isinstance(value, list) and "layer" in key and all(type(one) is int and one < depth for one in value):
        return [layers.index(one) for one in value if one in layers]
    if isinstance(value, dict) and value and all(str(one).isdigit() for one in value):
        return {f"{layers.index(int(one)):02d}": held for one, held in value.items() if int(one) in layers}
    return value


def _counts_layers(key: str, value: Any, depth: int) -> bool:
    return ("layers" in key or "first_k" in key) and type(value) is int and 0 < value <= depth


def _first(layers: Sequence[int], value: int, depth: int) -> int:
    del depth
    return sum(index < value for index in layers)


def _last(layers: Sequence[int], value: int, depth: int) -> int:
    return sum(index >= depth - value for index in layers)
