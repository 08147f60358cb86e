"""Compares a rewritten graph with the file it was made from, on random inputs in ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.errors import one_line
from edgellm_core.pipeline.foreign.comparison import CheckResult, limit_of, rounds_to_half
from edgellm_core.pipeline.foreign.errors import ChangedResultError, InputRunError, RewrittenRunError
from edgellm_core.pipeline.foreign.random_inputs import index_limits, random_inputs
from edgellm_core.pipeline.foreign.sizes import described, size_cases

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgellm_core.contract import ImportedForm
    from edgellm_core.events import Reporter
    from edgellm_core.pipeline.foreign.comparison import Comparison
    from edgellm_core.pipeline.foreign.reading import ForeignGraph

_LOG_ERRORS_ONLY: Final = 3

Arrays = dict[str, "np.ndarray[Any, Any]"]


@dataclass(frozen=True, kw_only=True)
class _Case:
    sizes: str
    inputs: Arrays
    expected: Arrays


def compare(comparison: Comparison[ImportedForm]) -> CheckResult:
    """Run both files on the same random inputs, of several sizes.

    Raises:
        InputRunError: the input file does not run with any of the sizes.
        RewrittenRunError: the rewritten file does not run.
        ChangedResultError: it computes something else.
    """
    report, rules = comparison.report, comparison.rules
    cases, skipped = _expected(comparison.foreign, comparison.dims, report)
    session = open_session(comparison.staged.model, None)
    worst, limit, half = 0.0, 0.0, rounds_to_half(comparison.foreign.model)
    for index, case in enumerate(cases):
        results = _run(session, case)
        for name, expected in case.expected.items():
            tolerance = limit_of(expected.dtype.name, rounds_to_half=half)
            difference = _difference(expected, results[name], exact=not tolerance)
            if not difference <= tolerance:
                raise ChangedResultError(name, case.sizes, _described(expected, results[name]), tolerance, rules)
            worst, limit = max(worst, difference), max(limit, tolerance)
        report.progress(len(cases) + index + 1, 2 * len(cases), case.sizes)
    return CheckResult(cases=len(cases), max_rel_err=worst, tolerance=limit, skipped=tuple(skipped))


def _expected(foreign: ForeignGraph, given: Mapping[str, int], report: Reporter) -> tuple[list[_Case], list[str]]:
    """Return inputs and outputs of the input file, and the sizes with which it does not run."""
    values = [value for value in foreign.model.graph.input if value.name not in foreign.initializers]
    shapes = {name: list(tensor.dims) for name, tensor in foreign.initializers.items()}
    limits = index_limits(foreign.model, shapes)
    sizes = size_cases(values, given)
    session = open_session(foreign.path, foreign.path)
    cases: list[_Case] = []
    skipped: list[str] = []
    reasons: list[str] = []
    for index, attempts in enumerate(sizes):
        for chosen in attempts:
            inputs = random_inputs(values, chosen, limits, index)
            outputs = _outputs(session, inputs)
            if not isinstance(outputs, str):
                cases.append(_Case(sizes=described(chosen), inputs=inputs, expected=outputs))
                break
            reasons.append(outputs)
        else:
            skipped.append(described(attempts[0]))
        report.progress(index + 1, 2 * len(sizes))
    if not cases:
        raise InputRunError(foreign.path, "; ".join(skipped), reasons[0])
    for text in skipped:
        report.note(f"The input file does not run with {text}; other sizes were compared.")
    return cases, skipped


def _outputs(session: Any, inputs: Arrays) -> Arrays | str:
    """Return the outputs by name, or why there are none to compare with."""
    names = [output.name for output in session.get_outputs()]
    try:
        outputs = session.run(names, inputs)
    except Exception as error:  # noqa: BLE001  # the exceptions of ONNX Runtime share no base but Exception
        return one_line(error)
    if not any(map(_has_numbers, outputs)):
        return "no output is a number anywhere"
    return dict(zip(names, outputs, strict=True))


def _has_numbers(value: np.ndarray[Any, Any]) -> bool:
    return not np.issubdtype(value.dtype, np.floating) or not value.size or bool(np.isfinite(value).any())


def open_session(path: Path, original: Path | None) -> Any:
    """Return ONNX Runtime's session of a file; ``original`` is the input file where it is that.

    Raises:
        InputRunError: ONNX Runtime can't load the input file.
        RewrittenRunError: it can't load the other one.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_ERRORS_ONLY + 1  # what goes wrong is in the exception too
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the exceptions of ONNX Runtime share no base but Exception
        if original is not None:
            raise InputRunError(original, "any inputs", one_line(error)) from error
        raise RewrittenRunError("any inputs", one_line(error)) from error


def _run(session: Any, case: _Case) -> Arrays:
    names = [output.name for output in session.get_outputs()]
    wanted = {value.name for value in session.get_inputs()}
    feeds = {name: value for name, value in case.inputs.items() if name in wanted}
    try:
        return dict(zip(names, session.run(names, feeds), strict=True))
    except Exception as error:  # the exceptions of ONNX Runtime share no base but Exception
        raise RewrittenRunError(case.sizes, one_line(error)) from error


def _difference(expected: np.ndarray[Any, Any], result: np.ndarray[Any, Any], *, exact: bool = False) -> float:
    """Return the difference relative to the largest value; infinite for another shape or type."""
    if expected.shape != result.shape or expected.dtype != result.dtype:
        return np.inf
    if exact:
        return float(not np.array_equal(expected, result))
    finite = np.isfinite(expected)
    if not np.array_equal(expected[~finite], result[~finite], equal_nan=True) or not np.all(
        np.isfinite(result[finite])
    ):
        return np.inf
    if not finite.any():
        return 0.0
    wide = expected[finite].astype(np.float64)
    largest = float(np.abs(wide).max())
    difference = float(np.abs(wide - result[finite].astype(np.float64)).max())
    return difference / largest if largest else difference


def _described(expected: np.ndarray[Any, Any], result: np.ndarray[Any, Any]) -> str:
    if expected.shape != result.shape or expected.dtype != result.dtype:
        return f"is {result.dtype}{list(result.shape)} instead of {expected.dtype}{list(expected.shape)}"
    difference = _difference(expected, result)
    if not np.isfinite(difference):
        return "is infinite or no number at other places"
    return f"differs by {difference:.2g} of its largest value"
