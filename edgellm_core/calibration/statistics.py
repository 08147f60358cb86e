"""What calibration measures of the inputs of linear layers: ranges, means and products, once for each distinct input.

The projections of queries, keys and values read one tensor, and so do gate and up: they are found by the identity of
the tensor, and what is measured of it is shared.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgellm_core.calibration.errors import ActivationsNotFiniteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import torch
    from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Which statistics are collected.

    Attributes:
        channels: ranges and means of each channel, besides the range of the whole tensor.
        products: the Gram matrix of the channels, over every so many tokens; 0 for none.
    """

    channels: bool = False
    products: int = 0


class InputStatistics:
    """Statistics of one input [tokens, in], over all batches, in float32.

    Attributes:
        amax: largest absolute value [].
        channel_amax: largest absolute value of each channel [in]; None if not measured.
        absolute_sum: sum of the absolute values of each channel [in]; None if not measured.
        gram: sum over tokens of xᵀx [in, in]; None if not measured.
        tokens: number of tokens.
        products_of: number of tokens that the Gram matrix sums over.
    """

    def __init__(self) -> None:
        self.amax: torch.Tensor | None = None
        self.channel_amax: torch.Tensor | None = None
        self.absolute_sum: torch.Tensor | None = None
        self.gram: torch.Tensor | None = None
        self.tokens = 0
        self.products_of = 0

    def add(self, inputs: torch.Tensor, measured: Measured) -> None:
        """Add a batch [..., in]."""
        rows = inputs.detach().reshape(-1, inputs.shape[-1])
        if not rows.shape[0]:  # an expert that no token was sent to
            return
        self.tokens += rows.shape[0]
        if measured.channels:
            self._add_channels(rows)
        else:
            low, high = rows.aminmax()
            self.amax = _larger(self.amax, high.maximum(-low).float())
        if measured.products:
            spread = rows[:: measured.products].float()  # sums rounded to bfloat16 are not positive definite any more
            self.products_of += spread.shape[0]
            products = spread.T @ spread
            self.gram = products if self.gram is None else self.gram.add_(products)

    def _add_channels(self, rows: torch.Tensor) -> None:
        import torch

        absolute = rows.abs()
        channel_amax, total = absolute.amax(0).float(), absolute.sum(0, dtype=torch.float32)
        self.channel_amax = _larger(self.channel_amax, channel_amax)
        self.amax = self.channel_amax.amax()
        self.absolute_sum = total if self.absolute_sum is None else self.absolute_sum + total

    @property
    def mean(self) -> torch.Tensor:
        """Mean absolute value of each channel [in]."""
        assert self.absolute_sum is not None  # for mypy: callers measured channels
        return self.absolute_sum / self.tokens

    @property
    def range(self) -> torch.Tensor:
        """Largest absolute value of each channel [in]."""
        assert self.channel_amax is not None  # for mypy: callers measured channels
        return self.channel_amax

    @property
    def products(self) -> torch.Tensor:
        """Gram matrix [in, in]."""
        assert self.gram is not None  # for mypy: callers measured products
        return self.gram


def _larger(one: torch.Tensor | None, another: torch.Tensor) -> torch.Tensor:
    return another if one is None else one.maximum(another)  # NaN on either side stays


@dataclass(frozen=True, kw_only=True)
class SharedInput:
    """Linear layers that read the same tensor.

    Attributes:
        modules: paths of the layers, in the order in which they are called.
        statistics: what was measured of the tensor.
    """

    modules: tuple[str, ...]
    statistics: InputStatistics


class StatisticsCollector:
    """Hooks linear layers and measures what enters them, while ``listening``."""

    def __init__(self, modules: Mapping[str, nn.Module], measured: Callable[[str], Measured]) -> None:
        """Take the layers by path, and what is to be measured of the input of each."""
        self._modules = modules
        self._measured = measured
        self._groups: dict[tuple[str, ...], InputStatistics] = {}
        self._seen: list[tuple[torch.Tensor, list[str]]] = []

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Measure the forwards of the body."""
        handles = [module.register_forward_pre_hook(self._hook(name)) for name, module in self._modules.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def end_batch(self) -> None:
        """Add what the layers read since the last call to the statistics."""
        for tensor, names in self._seen:
            statistics = self._groups.setdefault(tuple(names), InputStatistics())
            wanted = [self._measured(name) for name in names]
            measured = Measured(
                channels=any(item.channels for item in wanted), products=max(item.products for item in wanted)
            )
            statistics.add(tensor, measured)
        self._seen.clear()

    def add(self, name: str, inputs: torch.Tensor) -> None:
        """Measure a batch [..., in] that enters one layer, without hooks."""
        self._groups.setdefault((name,), InputStatistics()).add(inputs, self._measured(name))

    def shared_inputs(self) -> list[SharedInput]:
        """Return the inputs with at least one token.

        Raises:
            ActivationsNotFiniteError: one holds NaN or infinity.
        """
        for names, statistics in self._groups.items():
            if statistics.amax is not None and not bool(statistics.amax.isfinite()):
                raise ActivationsNotFiniteError(names[0])
        return [
            SharedInput(modules=names, statistics=statistics)
            for names, statistics in self._merged().items()
            if statistics.tokens
        ]

    def _merged(self) -> dict[tuple[str, ...], InputStatistics]:
        """Return the groups; layers that shared an input in some batches only keep to themselves."""
        places: dict[str, list[tuple[str, ...]]] = {}
        for names in self._groups:
            for name in names:
                places.setdefault(name, []).append(names)
        if all(len(groups) == 1 for groups in places.values()):
            return self._groups
        return {(name,): _sum([self._groups[group] for group in groups]) for name, groups in places.items()}

    def _hook(self, name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            inputs = args[0]
            for tensor, names in self._seen:
                if same_values(tensor, inputs):
                    names.append(name)
                    return
            self._seen.append((inputs, [name]))

        return hook


def same_values(one: torch.Tensor, another: torch.Tensor) -> bool:
    """Say whether two tensors that both live are views of the same values."""
    return one is another or (
        one.data_ptr() == another.data_ptr()
        and one.numel() == another.numel()
        and one.shape[-1] == another.shape[-1]
        and one.stride()[-1] == another.stride()[-1]
        and one.is_contiguous() == another.is_contiguous()
    )


def _sum(parts: list[InputStatistics]) -> InputStatistics:
    """Return the statistics of the inputs of all parts together."""
    total = InputStatistics()
    total.tokens = sum(part.tokens for part in parts)
    total.products_of = sum(part.products_of for part in parts)
    for part in parts:
        for name, join in (("amax", _larger), ("channel_amax", _larger), ("absolute_sum", _plus), ("gram", _plus)):
            value = getattr(part, name)
            if value is not None:
                setattr(total, name, join(getattr(total, name), value))
    return total


def _plus(one: torch.Tensor | None, another: torch.Tensor) -> torch.Tensor:
    return another if one is None else one + another
