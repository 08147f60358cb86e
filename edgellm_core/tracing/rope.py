"""Rotary position embeddings: rotations recognised by probing them on random numbers.

Models call a function of their own module named ``apply_rotary…`` with query, key and tables of cosines and sines.
Which table layout, which pairs, which part of the channels: the numbers tell. What is not recognised stays as plain
operators and is still right.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from edgellm_core.tracing import operators

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

TableLayout = Literal["repeated", "interleaved", "half"]

_ROTATED: Final = ("q", "k", "x", "tensor")
"""Argument names under which transformers' functions take what is rotated."""
_PROBE_TOLERANCE: Final = 1e-5
_LAYOUTS: Final[Mapping[TableLayout, Callable[[torch.Tensor], torch.Tensor]]] = {
    "repeated": lambda half: torch.cat((half, half), -1),
    "interleaved": lambda half: half.repeat_interleave(2, -1),
    "half": lambda half: half,
}
"""How a table of ``rotary_dim / 2`` angles is laid out in the model's cos and sin."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """What an ``apply_rotary…`` function computes.

    Attributes:
        layout: how cos and sin repeat the angles.
        interleaved: pairs are neighbouring channels.
        permuted: the result's channels are regrouped from neighbours to halves.
        rotary_dim: channels that are rotated.
    """

    layout: TableLayout
    interleaved: bool
    permuted: bool
    rotary_dim: int

    def angles(self, table: torch.Tensor) -> torch.Tensor:
        """Return the ``[batch, seq, rotary_dim / 2]`` part of a model's table."""
        if self.layout == "repeated":
            return table[..., : self.rotary_dim // 2]
        return table[..., ::2] if self.layout == "interleaved" else table


def rotate(
    x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, interleaved: bool, rotary_dim: int
) -> torch.Tensor:
    """Compute a rotation on real numbers; the reference that probes compare with (RoFormer, arXiv 2104.09864).

    Args:
        x: ``[batch, heads, seq, head_dim]``.
        cos: ``[batch, seq, rotary_dim / 2]``.
        sin: like ``cos``.
        interleaved: pairs are neighbouring channels.
        rotary_dim: channels that are rotated; the others pass.
    """
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    turning, passing = x[..., :rotary_dim], x[..., rotary_dim:]
    if interleaved:
        a, b = turning[..., ::2], turning[..., 1::2]
        turned = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    else:
        a, b = turning.chunk(2, -1)
        turned = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
    return torch.cat((turned, passing), -1)


def _regroup(x: torch.Tensor, rotary_dim: int) -> torch.Tensor:
    return torch.cat((x[..., :rotary_dim:2], x[..., 1:rotary_dim:2], x[..., rotary_dim:]), -1)


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of an ``apply_rotary…`` function, its arguments sorted by role."""

    function: Callable[..., Any]
    rotated: tuple[str, ...]
    arguments: Mapping[str, Any]
    heads_axis: int

    @property
    def head_dim(self) -> int:
        return int(self.arguments[self.rotated[0]].shape[-1])

    @property
    def table_width(self) -> int:
        return int(self.arguments["cos"].shape[-1])

    def others(self) -> dict[str, Any]:
        """Return the arguments that are neither rotated nor tables."""
        return {key: value for key, value in self.arguments.items() if key not in {*self.rotated, "cos", "sin"}}


def _read_call(name: str, function: Callable[..., Any], args: Any, kwargs: Any) -> _Call | None:
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return None
    bound.apply_defaults()
    given = bound.arguments
    rotated = tuple(key for key in _ROTATED if isinstance(given.get(key), torch.Tensor))
    cos, sin = given.get("cos"), given.get("sin")
    default_axis = 2 if name == "apply_rotary_pos_emb" and "tensor" in given else 1
    heads_axis = given.get("unsqueeze_dim", default_axis)
    if not rotated or not isinstance(cos, torch.Tensor) or not isinstance(sin, torch.Tensor):
        return None
    if any(isinstance(value, torch.Tensor) for key, value in given.items() if key not in {*rotated, "cos", "sin"}):
        return None  # another tensor may change the rotation, and a probe has none to give
    if cos.dim() != 3 or any(given[key].dim() != 4 for key in rotated) or heads_axis not in (1, 2):
        return None
    return _Call(function, rotated, dict(given), heads_axis)


def classify_rotation(call: _Call) -> Rotation | None:
    """Return what a function computes, from its results on random numbers; None if no known rotation fits."""
    with _disable_current_modes(), torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, 3, 5, call.head_dim, generator=generator)
        for layout in _LAYOUTS:
            half = call.table_width if layout == "half" else call.table_width // 2
            if 2 * half > call.head_dim or (layout != "half" and call.table_width % 2):
                continue
            angles = torch.randn(2, 5, half, generator=generator)
            result = _run_on(call, x, layout, angles)
            found = None if result is None else _match(x, result, layout, angles)
            if found is not None:
                return found if _keeps_type(call, x, layout, angles) else None
    return None


def _keeps_type(call: _Call, x: torch.Tensor, layout: TableLayout, angles: torch.Tensor) -> bool:
    """Say whether a function gives back the element type that it rotates, also where its tables have a wider one."""
    rotated: torch.dtype = call.arguments[call.rotated[0]].dtype
    result = _run_on(call, x.to(rotated), layout, angles.to(call.arguments["cos"].dtype))
    return result is not None and result.dtype == rotated


def _run_on(call: _Call, x: torch.Tensor, layout: TableLayout, angles: torch.Tensor) -> torch.Tensor | None:
    given = x if call.heads_axis == 1 else x.transpose(1, 2)
    table = _LAYOUTS[layout]
    tables = {"cos": table(angles.cos()), "sin": table(angles.sin())}
    try:
        result = call.function(**dict.fromkeys(call.rotated, given), **tables, **call.others())
    except (RuntimeError, TypeError, ValueError):  # shapes that this layout does not have
        return None
    results = [item for item in (result if isinstance(result, tuple) else (result,)) if item is not None]
    if len(results) != len(call.rotated) or not all(_same_as_first(item, results[0]) for item in results):
        return None
    result = results[0] if call.heads_axis == 1 else results[0].transpose(1, 2)
    return result if result.shape == x.shape else None


def _same_as_first(result: Any, first: Any) -> bool:
    """Say whether query and key, which were given the same numbers, were turned in the same way."""
    return isinstance(result, torch.Tensor) and isinstance(first, torch.Tensor) and torch.equal(result, first)


def _match(x: torch.Tensor, result: torch.Tensor, layout: TableLayout, angles: torch.Tensor) -> Rotation | None:
    rotary_dim = 2 * angles.shape[-1]
    for interleaved in (False, True):
        expected = rotate(x, angles.cos(), angles.sin(), interleaved=interleaved, rotary_dim=rotary_dim)
        if torch.allclose(result, expected, atol=_PROBE_TOLERANCE):
            return Rotation(layout, interleaved, permuted=False, rotary_dim=rotary_dim)
        if interleaved and torch.allclose(result, _regroup(expected, rotary_dim), atol=_PROBE_TOLERANCE):
            return Rotation(layout, interleaved, permuted=True, rotary_dim=rotary_dim)
    return None


def _record(call: _Call, rotation: Rotation) -> Any:
    """Record one operator for each rotated tensor; tables of a wider type are rounded once, for all layers.

    Most models round them themselves. Some (OLMo 2) rotate in float32 and round what comes out.
    """
    rotated: torch.dtype = call.arguments[call.rotated[0]].dtype
    cos, sin = (rotation.angles(call.arguments[name]).to(rotated) for name in ("cos", "sin"))
    outputs = []
    for name in call.rotated:
        given = call.arguments[name]
        x = given if call.heads_axis == 1 else given.transpose(1, 2)
        expand = [x.shape[0], -1, -1]
        turned = operators.rotary(
            x,
            cos.expand(expand) if isinstance(cos.shape[0], int) else cos,
            sin.expand(expand) if isinstance(sin.shape[0], int) else sin,
            interleaved=rotation.interleaved,
            rotary_dim=rotation.rotary_dim,
        )
        if rotation.permuted:
            turned = _regroup(turned, rotation.rotary_dim)
        outputs.append(turned if call.heads_axis == 1 else turned.transpose(1, 2))
    if len(outputs) > 1:
        return tuple(outputs)
    return (outputs[0], None) if "q" in call.arguments else outputs[0]


class _RotaryWrapper:
    """Replaces one ``apply_rotary…`` function; remembers what it learned about each form of call."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name = name
        self._function = function
        self._known: dict[tuple[object, ...], Rotation | None] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = _read_call(self._name, self._function, args, kwargs)
        if call is None:
            return self._function(*args, **kwargs)
        types = (call.arguments[call.rotated[0]].dtype, call.arguments["cos"].dtype)
        form = (call.rotated, call.head_dim, call.table_width, call.heads_axis, types, repr(call.others()))
        if form not in self._known:
            self._known[form] = classify_rotation(call)
        rotation = self._known[form]
        return self._function(*args, **kwargs) if rotation is None else _record(call, rotation)


@contextlib.contextmanager
def replaced_rotations(
    model: nn.Module, replace: Callable[[str, Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Put ``replace(name, function)`` in the place of every ``apply_rotary…`` of the model's code in the body."""
    with contextlib.ExitStack() as undo:
        for module_name in {type(module).__module__ for module in model.modules()}:
            if module_name.startswith("torch."):
                continue
            module = sys.modules[module_name]
            for name, function in list(vars(module).items()):
                if re.match(r"_?apply_rotary", name) and callable(function):
                    undo.callback(setattr, module, name, function)
                    setattr(module, name, replace(name, function))
        yield


def recorded_rotations(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Record recognised rotations as semantic operators in the body."""
    return replaced_rotations(model, _RotaryWrapper)
