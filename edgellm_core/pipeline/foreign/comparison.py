"""What comparisons of a foreign graph with its rewritten form start from, and what they say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

    from edgellm_core.contract import ImportedForm
    from edgellm_core.events import Reporter
    from edgellm_core.pipeline.foreign.reading import ForeignGraph
    from edgellm_core.pipeline.foreign.writing import Staged

TOLERANCES: Final = {"float64": 1e-4, "float32": 1e-4, "float16": 2e-2}
"""Largest difference of an output, relative to its largest absolute value; other types must be equal. The standard
operators round in another order: tiny decoders differ by 1e-6 in float32 and by 2e-3 in float16. What a graph rounds to
float16 on the way limits its wider outputs too."""


def limit_of(dtype: str, *, rounds_to_half: bool) -> float:
    """Return the largest difference of an output of an element type, 0 where it must be equal."""
    limit = TOLERANCES.get(dtype, 0.0)
    return max(limit, TOLERANCES["float16"]) if limit and rounds_to_half else limit


def rounds_to_half(model: onnx.ModelProto) -> bool:
    """Say whether a graph holds float16 numbers."""
    import onnx

    half = onnx.TensorProto.FLOAT16
    return any(tensor.data_type == half for tensor in model.graph.initializer) or any(
        attribute.name == "to" and attribute.i == half
        for node in model.graph.node
        if node.op_type == "Cast"
        for attribute in node.attribute
    )


FormT = TypeVar("FormT", bound="ImportedForm")


@dataclass(frozen=True)
class Comparison(Generic[FormT]):
    """Two graphs to compare.

    Attributes:
        foreign: the input file.
        staged: the files to compare with it.
        form: what the target said of the graph.
        dims: sizes of symbolic dimensions; the others are chosen.
        rules: names of the rules that applied, for messages.
        report: receives progress.
    """

    foreign: ForeignGraph
    staged: Staged
    form: FormT
    dims: Mapping[str, int]
    rules: Sequence[str]
    report: Reporter


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    """How a comparison went.

    Attributes:
        cases: number of sets of inputs that were compared.
        max_rel_err: largest difference, relative to the largest absolute value of its output.
        tolerance: the limit for the outputs that there are.
        skipped: sizes with which the input file itself does not run.
    """

    cases: int
    max_rel_err: float
    tolerance: float
    skipped: tuple[str, ...] = ()
