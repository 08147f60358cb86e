"""How large the numbers of the original become: values that float16 can't hold, or only just, and attention scores.

ONNX Runtime's CPU kernels compute most float16 operators in float32 and drop the casts between them, so a value beyond
float16's range can pass through unharmed there and become infinite on a device. So the range is measured where it is
certain: in the original, in float32. Watched are the inputs and outputs of its innermost modules and of every linear
layer (also those that are a function call, as in experts), the residual before and after each layer, and the scores.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import nn

from edgellm_core.settings import LARGEST_FP16
from edgellm_core.verification.attention_scores import WEIGHTED, CallWatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Side = Literal["takes", "makes", "scores"]

NEAR: Final = 4.0
"""A value within this factor of the limit is told: text that nobody tried may go beyond it."""

WORDS: Final[dict[Side, str]] = {
    "takes": "takes values up to",
    "makes": "makes values up to",
    "scores": "has attention scores up to",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Peak:
    """The largest absolute value that was seen at one place.

    Attributes:
        module: path of the module.
        side: its input, its output, or the attention scores that it computes.
        largest: the value.
    """

    module: str
    side: Side
    largest: float

    @property
    def words(self) -> str:
        """What is large, as a part of a sentence: ``takes values up to 8.6e+04``."""
        return f"{WORDS[self.side]} {self.largest:.3g}"


class RangeWatch:
    """Collects the largest values of everything that runs while it watches, over any number of modules and calls.

    Layers may be watched one at a time, loaded and freed in between; only numbers are kept.

    Attributes:
        limit: value beyond which they are told.
        active: whether what runs is looked at.
    """

    def __init__(self, limit: float = LARGEST_FP16) -> None:
        """Watch for values beyond ``limit``."""
        self.limit, self.active = limit, True
        self._largest: dict[tuple[str, Side], float] = {}
        self._beyond: dict[tuple[str, Side], None] = {}  # in order of execution
        self._running: list[tuple[str, nn.Module]] = []

    @property
    def excess(self) -> list[Peak]:
        """Values beyond the limit, the first that ran first; attention scores are told apart."""
        return [self._peak(place) for place in self._beyond if place[1] != "scores"]

    @property
    def near(self) -> list[Peak]:
        """Values within a factor of ``NEAR`` of the limit, one for each module, the largest first."""
        within: dict[str, Peak] = {}
        for place, largest in self._largest.items():
            known = within.get(place[0])
            if self.limit / NEAR < largest <= self.limit and place[1] != "scores":
                within[place[0]] = max(known or self._peak(place), self._peak(place), key=_size)
        return sorted(within.values(), key=_size, reverse=True)

    @property
    def largest_score(self) -> Peak | None:
        """The largest attention score (scaled, capped, before softmax, not masked); None where no attention ran."""
        return max((self._peak(place) for place in self._largest if place[1] == "scores"), key=_size, default=None)

    def _peak(self, place: tuple[str, Side]) -> Peak:
        return Peak(module=place[0], side=place[1], largest=self._largest[place])

    @contextlib.contextmanager
    def watching(self, module: nn.Module, path: str = "") -> Iterator[RangeWatch]:
        """Watch the forward passes of a module that run in the body, in this thread.

        Args:
            module: the model, or a part of it.
            path: path of the part in the model, for example ``model.layers.3``.
        """
        with self.hooked(module, path), self.calls():
            yield self

    @contextlib.contextmanager
    def hooked(self, module: nn.Module, path: str = "") -> Iterator[RangeWatch]:
        """Watch the modules under a module in the body, whatever thread runs them, but not their function calls.

        Args:
            module: the model, or a part of it.
            path: path of the part in the model, for example ``model.layers.3``.
        """
        handles: list[torch.utils.hooks.RemovableHandle] = []
        layers = {id(part) for parent in module.modules() if isinstance(parent, nn.ModuleList) for part in parent}
        if path:
            layers.add(id(module))
        for name, part in module.named_modules():
            place = ".".join(filter(None, (path, name)))
            handles.append(part.register_forward_pre_hook(functools.partial(self._enter, place)))
            innermost = next(part.children(), None) is None and not isinstance(part, nn.Softmax)  # it takes masks
            if innermost or id(part) in layers:
                takes, makes = functools.partial(self._take, place), functools.partial(self._make, place)
                handles.append(part.register_forward_pre_hook(takes, with_kwargs=True))
                handles.append(part.register_forward_hook(makes))
            handles.append(part.register_forward_hook(self._leave))
        try:
            yield self
        finally:
            self._running.clear()
            for handle in handles:
                handle.remove()

    def calls(self) -> CallWatch:
        """Return a context that watches the function calls of its body, in the thread that enters it."""
        return CallWatch(self._see_call, self._see_scores)

    def _enter(self, path: str, module: nn.Module, _given: Any) -> None:
        self._running.append((path, module))

    def _take(self, path: str, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        values = given[:1] if next(module.children(), None) is not None else given  # a layer takes masks too
        self._see(path, "takes", (*values, named.get("hidden_states")))

    def _make(self, path: str, _module: nn.Module, _given: Any, output: Any) -> None:
        self._see(path, "makes", output if isinstance(output, tuple) else (output,))

    def _leave(self, _module: nn.Module, _given: Any, _output: Any) -> None:
        self._running.pop()

    def _see_call(self, takes: Iterable[Any], makes: torch.Tensor) -> None:
        """See a product that no module of its own computes."""
        path, module = self._running[-1] if self._running else ("", None)
        if module is None or isinstance(module, nn.Linear):
            return
        weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters(recurse=False)}
        activations = [value for value in takes if value.untyped_storage().data_ptr() not in weights]
        if len(activations) < WEIGHTED:
            self._see(path, "takes", activations)
            self._see(path, "makes", (makes,))

    def _see_scores(self, largest: float) -> None:
        self._note((self._running[-1][0] if self._running else "", "scores"), largest)

    def _see(self, path: str, side: Side, values: Iterable[Any]) -> None:
        for value in values:
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
                low, high = (float(end) for end in torch.aminmax(value))
                if low > torch.finfo(value.dtype).min:  # else it is an attention mask
                    self._note((path, side), max(-low, high))

    def _note(self, place: tuple[str, Side], largest: float) -> None:
        if not self.active:
            return
        self._largest[place] = max(largest, self._largest.get(place, 0.0))
        if largest > self.limit:
            self._beyond.setdefault(place)


def near_note(near: Sequence[Peak], where: str = "") -> str | None:
    """Return the sentence about values that float16 only just holds; None where there are none.

    Args:
        near: those of a watch, the largest first.
        where: the part that holds the largest, in words, for example ``decoder layer 3``.
    """
    if not near:
        return None
    place = f"{near[0].module!r}" + (f" ({where})" if where else "")
    return (
        f"{place} {near[0].words}, within a factor of {NEAR:.0f} of float16's largest number, {LARGEST_FP16:.0f}. "
        "Other text may go beyond it; --precision bf16 leaves room."
    )


def _size(peak: Peak) -> float:
    return peak.largest
