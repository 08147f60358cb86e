"""Decoder layers: finding the stack, telling their kinds apart by structure, and keeping one or two of each kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from edgellm_core.tracing.errors import UntraceableModelError
from edgellm_core.tracing.stamping import NotStampableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from transformers import PreTrainedConfig, PreTrainedModel

_SCALARS = (int, float, str, bool, type(None))


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerStack:
    """The decoder layers of a model.

    Attributes:
        path: attribute path of their ModuleList, for example ``model.layers``.
        kind_of: kind of each layer, numbered in order of appearance.
        traced: indices of the layers that stay in the model for tracing, ascending.
        guards: ``(first, last)`` layer of every kind that occurs more than once.
    """

    path: str
    kind_of: tuple[int, ...]
    traced: tuple[int, ...]
    guards: tuple[tuple[int, int], ...]

    @property
    def representative_of(self) -> tuple[int, ...]:
        """Return, for each layer, the index of the layer that it is stamped from."""
        return tuple(self.kind_of.index(kind) for kind in self.kind_of)


def find_stack(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Return path and list of the decoder layers: of the ModuleLists as long as the config says, the largest.

    Returns:
        ``("", empty list)`` when there is no such list; the model then is traced whole.
    """
    depth = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    found = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth and all(_size(m) for m in module)
    ]
    return max(found, key=lambda item: _size(item[1]), default=("", nn.ModuleList()))


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def analyse_stack(model: PreTrainedModel, *, full_depth: bool) -> LayerStack | None:
    """Sort the decoder layers into kinds.

    Args:
        model: the model at full depth.
        full_depth: make every layer a kind of its own.

    Returns:
        None when no stack of layers was found.
    """
    path, layers = find_stack(model)
    if not path:
        return None
    layer_types = getattr(model.config.get_text_config(), "layer_types", None)
    kinds: dict[object, int] = {}
    kind_of = []
    for index, layer in enumerate(layers):
        type_name = layer_types[index] if layer_types and len(layer_types) == len(layers) else None
        signature: object = index if full_depth else (type_name, *_signature(layer))
        kind_of.append(kinds.setdefault(signature, len(kinds)))
    first = [kind_of.index(kind) for kind in range(len(kinds))]
    last = [len(kind_of) - 1 - kind_of[::-1].index(kind) for kind in range(len(kinds))]
    return LayerStack(
        path=path,
        kind_of=tuple(kind_of),
        traced=tuple(sorted({*first, *last})),
        guards=tuple((a, b) for a, b in zip(first, last, strict=True) if a != b),
    )


def _signature(layer: nn.Module) -> Iterator[object]:
    """Yield everything about a layer's structure that can change its graph, except its index."""
    for name, module in layer.named_modules():
        scalars = tuple(
            (key, repr(value))
            for key, value in sorted(vars(module).items())
            if key not in {"layer_idx", "training"} and not key.startswith("_") and _is_scalar(value)
        )
        shapes = tuple((key, tuple(p.shape), str(p.dtype)) for key, p in module.named_parameters(recurse=False))
        buffers = tuple((key, tuple(b.shape)) for key, b in module.named_buffers(recurse=False))
        yield name, type(module).__qualname__, scalars, shapes, buffers


def _is_scalar(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(item, _SCALARS) for item in value)
    return isinstance(value, _SCALARS)


def depth_of(model: PreTrainedModel, stack: LayerStack | None) -> int:
    """Return how many decoder layers the whole model has.

    Raises:
        UntraceableModelError: the layers are not one list, and the config does not say either.
    """
    if stack is not None:
        return len(stack.kind_of)
    depth = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    if depth is None:
        raise UntraceableModelError(
            type(model).__name__, "its layers are not one list, and its config has no num_hidden_layers"
        )
    return int(depth)


def keep_traced_layers(model: PreTrainedModel, stack: LayerStack) -> None:
    """Drop all layers but the traced ones; each keeps its real ``layer_idx``, configs shrink to match.

    Raises:
        NotStampableError: a config computes the types of its layers and can't be shrunk.
    """
    if len(stack.traced) == len(stack.kind_of):
        return
    parent_path, _, attribute = stack.path.rpartition(".")
    parent = model.get_submodule(parent_path)
    layers: Any = getattr(parent, attribute)
    setattr(parent, attribute, nn.ModuleList([layers[index] for index in stack.traced]))
    for config in _configs(model):
        _shrink_config(config, stack)


def _configs(model: nn.Module) -> list[PreTrainedConfig]:
    found = {id(c): c for module in model.modules() if (c := getattr(module, "config", None)) is not None}
    texts = {id(text): text for c in found.values() if (text := c.get_text_config()) is not None}
    return list({**found, **texts}.values())


def _shrink_config(config: PreTrainedConfig, stack: LayerStack) -> None:
    depth = len(stack.kind_of)
    if getattr(config, "num_hidden_layers", None) == depth:
        config.num_hidden_layers = len(stack.traced)
    layer_types = getattr(config, "layer_types", None)
    if layer_types and len(layer_types) == depth:
        try:
            config.layer_types = [layer_types[index] for index in stack.traced]
        except AttributeError as error:  # a property
            msg = f"{type(config).__name__} computes its layer_types"
            raise NotStampableError(msg) from error


def layer_positions(stack: LayerStack) -> Mapping[int, int]:
    """Return real layer index → position among the traced layers."""
    return {layer: position for position, layer in enumerate(stack.traced)}
