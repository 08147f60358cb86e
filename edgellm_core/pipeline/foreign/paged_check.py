"""Compares a foreign decoder with its form for target ``edge-llm``, token by token, over a paged KV cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.errors import InvalidSettingError, one_line
from edgellm_core.pipeline.foreign.check import open_session
from edgellm_core.pipeline.foreign.comparison import TOLERANCES, CheckResult
from edgellm_core.pipeline.foreign.errors import ChangedResultError, InputRunError, RewrittenRunError
from edgellm_core.runtime.errors import GraphRunError
from edgellm_core.runtime.paged.functions import add_functions
from edgellm_core.runtime.paged.session import GraphFiles, PagedGraph, Step, read_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgellm_core.pipeline.foreign.comparison import Comparison
    from edgellm_core.targets.edge_llm.imported import ImportedDecoder

Array = np.ndarray[Any, Any]

STEPS: Final = ((11, (0, 4)), (3, (0, 0)), (1, (0, 0)), (1, (0, 0)))
"""New tokens of both sequences, and padding before them: prompts, a later part of them, single tokens."""

_VOCABULARY: Final = 64
"""Rows of the table that a graph gets which reads embeddings."""


def compare(comparison: Comparison[ImportedDecoder]) -> CheckResult:
    """Run both graphs on the same random tokens: prompts, a later part of the prompts, single tokens.

    The input file gets batches as its inputs ask for, the other one lists of tokens and pages of keys and values.

    Raises:
        InvalidSettingError: sizes are given: those of a decoder follow from the steps.
        InputRunError: the input file does not run.
        RewrittenRunError: the rewritten graph does not run.
        ChangedResultError: it computes something else.
    """
    if comparison.dims:
        given = ", ".join(f"{name}={size}" for name, size in comparison.dims.items())
        raise InvalidSettingError("--dim", "has no use for a decoder of target 'edge-llm'", given, "Leave it out.")
    form = comparison.form
    table = _table(comparison)
    original = _Original(comparison, table)
    rewritten = _rewritten(comparison, table)
    rewritten.start(2)
    worst, limit = 0.0, TOLERANCES["float16"]
    steps = list(_steps(len(table), padded=form.mask is not None))
    for index, step in enumerate(steps):
        expected = original.run(step)
        real = step.attention_mask[:, -step.input_ids.shape[1] :].astype(bool)
        name = f"step {index + 1} of {len(steps)}"
        try:
            logits, _ = rewritten.run(step)
        except GraphRunError as error:
            raise RewrittenRunError(name, one_line(error)) from error
        difference = _difference(expected[real], logits[real])
        if not difference <= limit:
            text = f"differs by {difference:.2g} of its largest value"
            raise ChangedResultError(form.logits, name, text, limit, comparison.rules)
        worst = max(worst, difference)
        comparison.report.progress(index + 1, len(steps), name)
    return CheckResult(cases=len(steps), max_rel_err=worst, tolerance=limit)


def _steps(vocabulary: int, *, padded: bool) -> Iterator[Step]:
    generator = np.random.default_rng(0)
    mask = np.zeros((2, 0), np.int64)
    for seq, padding in STEPS:
        real = np.arange(seq) >= np.array(padding if padded else (0, 0))[:, None]
        mask = np.concatenate([mask, real.astype(np.int64)], axis=1)
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)[:, -seq:]
        yield Step(generator.integers(0, vocabulary, (2, seq)), mask, positions)


def _table(comparison: Comparison[ImportedDecoder]) -> Array:
    """Return the table of embeddings, a random one where the graph reads embeddings."""
    for path in comparison.staged.tables.values():
        return read_table(path)
    graph = comparison.foreign.model.graph
    tokens = next(value for value in graph.input if value.name == comparison.form.tokens)
    hidden = tokens.type.tensor_type.shape.dim[2].dim_value
    return np.random.default_rng(1).standard_normal((_VOCABULARY, hidden)).astype(np.float16)


def _rewritten(comparison: Comparison[ImportedDecoder], table: Array) -> PagedGraph:
    """Return the rewritten graph, its plugins written as functions."""
    import onnx

    from edgellm_core.verification.session import load_graph

    path = comparison.staged.model
    model = onnx.load(path, load_external_data=False)
    add_functions(model)
    try:
        session = load_graph(model, path.parent, [], widened=False)
    except Exception as error:  # the exceptions of ONNX Runtime and protobuf share no base but Exception
        raise RewrittenRunError("any inputs", one_line(error)) from error
    return PagedGraph(session, GraphFiles(path, table, comparison.form.angles.cos_sin))


class _Original:
    """The input file, with its cache where it has one; otherwise it reads all tokens in every step."""

    def __init__(self, comparison: Comparison[ImportedDecoder], table: Array) -> None:
        self._path = comparison.foreign.path
        self._form, self._table = comparison.form, table
        self._session = open_session(self._path, self._path)
        self._inputs = {value.name: value for value in self._session.get_inputs()}
        self._cache = {name: self._empty(name) for name in self._form.past}
        self._seen = np.zeros((2, 0), np.int64)

    def _empty(self, name: str) -> Array:
        _, heads, _, size = self._inputs[name].shape
        return np.zeros((2, int(heads), 0, int(size)), np.float16)

    def run(self, step: Step) -> Array:
        """Return the logits of the new tokens, float32 ``[batch, seq, vocab]``."""
        form, seq = self._form, step.input_ids.shape[1]
        self._seen = np.concatenate([self._seen, step.input_ids], axis=1)
        ids, positions = step.input_ids, step.position_ids
        if not form.past:
            ids, mask = self._seen, step.attention_mask
            positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
        given = {form.tokens: ids, form.mask: step.attention_mask, form.positions: positions}
        feeds = {name: self._typed(name, value) for name, value in given.items() if name is not None}
        names = [form.logits, *form.present]
        try:
            logits, *present = self._session.run(names, feeds | self._cache)
        except Exception as error:  # the exceptions of ONNX Runtime share no base but Exception
            raise InputRunError(self._path, f"2 sequences of {seq} tokens", one_line(error)) from error
        self._cache = dict(zip(form.past, present, strict=True))
        result: Array = logits[:, -seq:].astype(np.float32)
        return result

    def _typed(self, name: str, value: Array) -> Array:
        """Return an input in the type and number of axes that the file asks for."""
        declared = self._inputs[name]
        if name == self._form.tokens and len(declared.shape) == 3:
            return self._table[value]
        if len(declared.shape) == 1:
            value = np.arange(self._seen.shape[1])[-value.shape[1] :]
        return value.astype(_NUMPY[declared.type])


_NUMPY: Final = {
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_, "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}  # fmt: skip


def _difference(expected: Array, result: Array) -> float:
    """Return the largest difference relative to the largest value; infinite where a number is none."""
    if not (np.isfinite(expected).all() and np.isfinite(result).all()):
        return float(np.inf)
    largest = float(np.abs(expected).max())
    difference = float(np.abs(expected - result).max())
    return difference / largest if largest else difference
