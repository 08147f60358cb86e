"""Proves that cosine and sine of a rotation are those of positions times constant frequencies, and finds these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.targets.edge_llm.errors import SeveralRopesError
from edgellm_core.targets.edge_llm.imported.errors import AnglesNotProvenError, NotComputableError
from edgellm_core.targets.edge_llm.imported.evaluation import evaluate, nodes_before
from edgellm_core.targets.edge_llm.imported.interface import Case

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_graphsurgeon as gs

    from edgellm_core.targets.edge_llm.imported.interface import Interface

Floats = np.ndarray[Any, np.dtype[np.float64]]

_CASES: Final = ((8, 0), (3, 1000))
"""New tokens and tokens in the cache; without a cache the second is left out."""

_ROUNDING: Final = {"float16": 2.0**-10, "float32": 2e-4}
"""Largest difference of a table from its formula; float32 angles of position 1000 are off by 6e-5."""


@dataclass(frozen=True)
class Angles:
    """Angles of a rotation.

    Attributes:
        frequencies: radians a position of each pair of channels, ``[rotary_dim / 2]``.
        factor: on cosine and sine.
    """

    frequencies: Floats
    factor: float

    def cos_sin(self, positions: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return float32 ``[tokens, rotary_dim]``: the cosines, then the sines."""
        angles = positions.astype(np.float64)[:, None] * self.frequencies
        both = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) * self.factor
        return both.astype(np.float32)


def prove_angles(rotations: Sequence[gs.Node], interface: Interface) -> Angles:
    """Return the angles that all rotations of a graph share.

    Raises:
        AnglesNotProvenError: a table is something else, or can't be computed.
        SeveralRopesError: rotations differ.
    """
    proven: dict[tuple[str, str], Angles] = {}
    for node in rotations:
        names = node.inputs[1].name, node.inputs[2].name
        if names not in proven:
            proven[names] = _prove(node, interface)
        first = next(iter(proven.values()))
        same = np.array_equal(first.frequencies, proven[names].frequencies)
        if not same or first.factor != proven[names].factor:
            raise SeveralRopesError(node.name)
    return first


def _prove(node: gs.Node, interface: Interface) -> Angles:
    tables = [_widest(tensor) for tensor in node.inputs[1:3]]
    try:
        inner = [_angle_of(table, op, node, interface) for table, op in zip(tables, ("Cos", "Sin"), strict=True)]
        cases = [Case(seq=seq, past=past) for seq, past in _CASES if interface.has_cache or not past]
        values = [evaluate([inner[0], *tables, *node.inputs[1:3]], case, interface) for case in cases]
    except NotComputableError as error:
        raise AnglesNotProvenError(node.name, f"depend on more than positions ({error})") from error
    half = int(node.attrs["rotary_dim"]) // 2
    angle, cos = (_rows(value, cases[0].seq, half, node) for value in values[0][:2])
    found = Angles(angle[1] - angle[0], float(cos[0, 0]))
    for case, (_, *given) in zip(cases, values, strict=True):
        expected = np.split(found.cos_sin(np.arange(case.past, case.past + case.seq)).astype(np.float64), 2, axis=1)
        for index, value in enumerate(given):
            rounding = _ROUNDING[value.dtype.name] if index < len(tables) else _ROUNDING["float16"]
            _check(_rows(value, case.seq, half, node), expected[index % 2], rounding, node)
    return found


def _widest(table: gs.Tensor) -> gs.Tensor:
    """Return a table before it is rounded to float16, where it is rounded: the first float32 after its factor."""
    widest = table
    while table.inputs and table.inputs[0].op not in ("Cos", "Sin", "Mul", "Div"):
        table = table.inputs[0].inputs[0]
        widest = table if table.dtype == np.float32 else widest
    return widest


def _angle_of(table: gs.Tensor, op: str, node: gs.Node, interface: Interface) -> gs.Tensor:
    """Return what the one ``Cos`` or ``Sin`` of a table is applied to."""
    makers = [one for one in nodes_before(table, interface) if one.op == op]
    if len(makers) != 1:
        raise AnglesNotProvenError(node.name, f"have {len(makers)} {op} nodes instead of one")
    angle: gs.Tensor = makers[0].inputs[0]
    return angle


def _rows(value: np.ndarray[Any, Any], seq: int, half: int, node: gs.Node) -> Floats:
    """Return one number of each pair of a table's channels, for each position of the first sequence."""
    rows = np.asarray(value, np.float64)
    rows = rows.reshape(-1, rows.shape[-1])[:seq]
    if rows.shape[0] != seq or rows.shape[1] not in (half, 2 * half):
        raise AnglesNotProvenError(node.name, f"have the shape {list(value.shape)}")
    first, second = rows[:, :half], rows[:, -half:]
    return first if np.array_equal(first, second) else rows[:, ::2]


def _check(value: Floats, expected: Floats, rounding: float, node: gs.Node) -> None:
    limit = rounding * max(1.0, float(np.abs(expected).max()))
    difference = float(np.abs(value - expected).max())
    if not difference <= limit:
        raise AnglesNotProvenError(node.name, f"differ from that by {difference:.2g}")
