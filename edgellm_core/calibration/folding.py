"""What feeds a linear layer: scales of its input channels fold into a norm or into the rows of another linear layer.

Feeders are found by numbers, not by names: a candidate's rows are multiplied by random factors, and the input must come
out multiplied by them too, channel by channel. So grouped queries are found as well: one row of the values' projection
feeds one channel of each query head of its group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from edgellm_core.calibration.statistics import same_values

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

    from edgellm_core.calibration.probing import LayerProbe

Kind = Literal["weight", "one_plus_weight", "rows"]

TOLERANCE: Final = 1e-4
"""Largest difference, relative to the largest value, at which an input counts as multiplied (float32)."""

LARGEST_GROUP: Final = 32
"""Most query heads that share a value head."""


@dataclass(frozen=True, kw_only=True)
class Feeder:
    """What makes an input, so that it takes over a scale of its channels.

    Attributes:
        module: path of the norm or linear layer.
        kind: ``weight`` and ``one_plus_weight`` for norms that multiply by w or by 1 + w; ``rows`` for linear layers.
        first: first row of the feeder that feeds the input.
        row_of: row of the feeder, counted from ``first``, of each input channel; int64 [in].
    """

    module: str
    kind: Kind
    first: int
    row_of: torch.Tensor

    @property
    def rows(self) -> int:
        """Number of rows that feed the input."""
        return int(self.row_of.max()) + 1

    def multiplied(self, parameters: Mapping[str, torch.Tensor], factors: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the feeder's parameters with its rows multiplied.

        Args:
            parameters: float32 values by path.
            factors: of each row [rows].
        """
        span = slice(self.first, self.first + factors.shape[0])
        found = {}
        for name in (f"{self.module}.weight", f"{self.module}.bias"):
            if name not in parameters:
                continue
            value = parameters[name].clone()
            if self.kind == "one_plus_weight" and name.endswith(".weight"):
                value[span] = (1 + value[span]) * factors - 1
            else:
                value[span] = value[span] * (factors[:, None] if value.dim() == 2 else factors)
            found[name] = value
        return found

    def storable(self, weight: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return the scale nearest to ``scale`` [rows] that a norm can take over without a rounding error.

        Args:
            weight: of the norm [rows], float32.
            scale: what the norm is to be divided by.
            dtype: element type in which the norm is stored.
        """
        offset = 1.0 if self.kind == "one_plus_weight" else 0.0
        whole = weight + offset
        stored = (whole / scale - offset).to(dtype).float() + offset
        exact = whole / stored
        return exact.where(exact.isfinite() & (exact > 0), 1.0)


def find_feeder(probe: LayerProbe, reader: str) -> Feeder | None:
    """Return what feeds the input of a linear layer, or None.

    Args:
        probe: the decoder layer.
        reader: path of the linear layer.
    """
    if reader not in probe.inputs:  # an expert that no token of the probe is sent to
        return None
    for candidate in _candidates(probe, reader):
        row_of = _row_of_channels(probe, reader, candidate)
        if row_of is not None:
            return Feeder(module=candidate.module, kind=candidate.kind, first=candidate.first, row_of=row_of)
    return None


def _candidates(probe: LayerProbe, reader: str) -> Iterator[Feeder]:
    """Yield what might feed an input: norms that return it, then ranges of rows of the linear layers before it."""
    import torch

    width = probe.inputs[reader].shape[-1]
    identity = torch.arange(width)
    for module, output in probe.outputs.items():
        weight = probe.weights.get(f"{module}.weight")
        if weight is not None and weight.dim() == 1 and same_values(output, probe.inputs[reader]):
            yield Feeder(module=module, kind="weight", first=0, row_of=identity)
            yield Feeder(module=module, kind="one_plus_weight", first=0, row_of=identity)
    for module in probe.inputs:
        if module == reader:
            return  # linear layers are called in order: what follows can't feed it
        outputs = probe.weights[f"{module}.weight"].shape[0]
        for first, rows in _row_ranges(outputs, width):
            yield Feeder(module=module, kind="rows", first=first, row_of=torch.arange(rows))


def _row_ranges(outputs: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield ranges (first, number) of rows that may feed ``width`` channels: all, or a part of a joined projection."""
    sizes = [width // group for group in range(1, LARGEST_GROUP + 1) if width % group == 0]
    if outputs in sizes:
        yield 0, outputs
    yield from ((outputs - size, size) for size in sizes if outputs == width + 2 * size)  # queries, keys and values
    if outputs == 2 * width:  # gate and up, in either order
        yield width, width
        yield 0, width


def _row_of_channels(probe: LayerProbe, reader: str, candidate: Feeder) -> torch.Tensor | None:
    """Return which row of a candidate feeds each channel, or None where it does not feed the input so."""
    import torch

    before = probe.inputs[reader]
    width, rows = before.shape[-1], candidate.row_of.shape[0]
    generator = torch.Generator().manual_seed(0)
    factors = (torch.rand(rows, generator=generator) * 1.5 + 0.5).to(before.device)
    inputs: dict[str, torch.Tensor] = {}
    probe.run(candidate.multiplied(probe.weights, factors), inputs)
    before, after = before.reshape(-1, width), inputs[reader].reshape(-1, width)
    for row_of in _orders(width, rows):
        expected = before * factors[row_of.to(before.device)]
        if bool((after - expected).abs().max() <= TOLERANCE * expected.abs().max()):
            return row_of
    return None


def _orders(width: int, rows: int) -> Iterator[torch.Tensor]:
    """Yield the orders in which rows may feed channels: one to one, or each head of rows a group of heads."""
    import torch

    channels = torch.arange(width)
    if width == rows:
        yield channels
        return
    group = width // rows
    for head in (size for size in range(rows, 0, -1) if rows % size == 0):
        yield channels // (group * head) * head + channels % head
