"""What each decoder layer carries from one step to the next: which tensors, their names and their shapes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class StateTensor:
    """One state as an input and an output of the graph.

    Attributes:
        layer: index of the decoder layer.
        part: ``key``, ``value``, ``indexer``, ``conv``, ``recurrent``, or the last two with ``_1``, ``_2`` … where a
            layer has several.
        sizes: dimensions after the batch; 0 where it grows.
        dtype: element type; None for that of the model. Some models cache in float32 whatever theirs is.
    """

    layer: int
    part: str
    sizes: tuple[int, ...]
    dtype: torch.dtype | None = None

    @property
    def grows(self) -> bool:
        """Whether it gets longer by one entry per token."""
        return 0 in self.sizes

    @property
    def growing_axis(self) -> int:
        """Axis of the sequence, counted from the batch (0); only of a state that grows."""
        return self.sizes.index(0) + 1

    @property
    def input_name(self) -> str:
        """Name of the graph input."""
        return f"{'past_key_values' if self.grows else 'past_state'}.{self.layer}.{self.part}"

    @property
    def output_name(self) -> str:
        """Name of the graph output with the next value."""
        return f"{'present' if self.grows else 'present_state'}.{self.layer}.{self.part}"


@dataclass(frozen=True, kw_only=True)
class LayerState:
    """States of one layer, read from a forward of the model and never from config keys.

    Attributes:
        layer: index of the decoder layer.
        key: ``(kv_heads, head_dim)`` of the keys; None without attention.
        value: ``(kv_heads, head_dim)`` of the values; None without attention.
        indexer: size of the keys of a sparse attention's indexer; None without one.
        types: element type of ``key``, ``value`` and ``indexer``, where a forward showed them.
        sliding: the model asks this layer for the mask of its windowed layers.
        conv: sizes without the batch and element type of each convolution state, by the model's number for it.
        recurrent: likewise of each recurrent state.
    """

    layer: int
    key: tuple[int, int] | None = None
    value: tuple[int, int] | None = None
    indexer: int | None = None
    types: Mapping[str, torch.dtype] = field(default_factory=dict)
    sliding: bool = False
    conv: Mapping[int, tuple[tuple[int, ...], torch.dtype]] = field(default_factory=dict)
    recurrent: Mapping[int, tuple[tuple[int, ...], torch.dtype]] = field(default_factory=dict)

    def tensors(self) -> list[StateTensor]:
        """Return the tensors of this layer in the order of the graph's inputs."""
        found: list[StateTensor] = []
        for part, shape in (("key", self.key), ("value", self.value)):
            if shape is not None:
                found.append(
                    StateTensor(layer=self.layer, part=part, sizes=(shape[0], 0, shape[1]), dtype=self.types.get(part))
                )
        if self.indexer is not None:
            found.append(
                StateTensor(layer=self.layer, part="indexer", sizes=(0, self.indexer), dtype=self.types.get("indexer"))
            )
        for kind, states in (("conv", self.conv), ("recurrent", self.recurrent)):
            for number, (sizes, dtype) in states.items():
                part = f"{kind}_{number}" if number else kind
                found.append(StateTensor(layer=self.layer, part=part, sizes=sizes, dtype=dtype))
        return found


def state_tensors(states: Sequence[LayerState]) -> list[StateTensor]:
    """Return the tensors of all layers in the order of the graph's inputs."""
    return [tensor for state in states for tensor in state.tensors()]
