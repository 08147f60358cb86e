"""Runs cases one after the other, in several processes, or on the workers of a Dask scheduler."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.errors import InvalidSettingError
from edgellm_core.matrix.errors import MissingDistributedError, NoWorkersError, UnreachableSchedulerError
from edgellm_core.matrix.run import CaseResult, RunSettings, run_case

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgellm_core.matrix.selection import MatrixCase

CONNECT_SECONDS: Final = 10
"""How long a scheduler may take to answer; in one network it takes less than one second."""


def run_cases(
    cases: Sequence[MatrixCase], settings: RunSettings, *, jobs: int = 1, scheduler: str | None = None
) -> Iterator[CaseResult]:
    """Yield the results as they come.

    Args:
        cases: what to run.
        settings: what all cases share.
        jobs: processes on this machine; 1 runs in this one.
        scheduler: address of a Dask scheduler whose workers have edgellm installed; None for this machine.

    Raises:
        InvalidSettingError: ``jobs`` is below 1, or given together with ``scheduler``.
        MissingDistributedError: Dask distributed is not installed.
        UnreachableSchedulerError: no scheduler answers there.
        NoWorkersError: it has no workers.
    """
    if jobs < 1:
        raise InvalidSettingError("--jobs", "must be at least 1", jobs, "Leave it out to use one process.")
    if scheduler is not None and jobs > 1:
        remedy = "Leave one of the two out."
        raise InvalidSettingError("--jobs", "can't be combined with --scheduler, whose workers decide", jobs, remedy)
    if scheduler is not None:
        return _run_on_workers(cases, settings, scheduler)
    if jobs > 1:
        return _run_in_processes(cases, settings, jobs)
    return (run_case(case, settings) for case in cases)


def _run_in_processes(cases: Sequence[MatrixCase], settings: RunSettings, jobs: int) -> Iterator[CaseResult]:
    """Yield results of a pool; when one of its processes dies, the cases without a result run on their own."""
    unfinished: list[MatrixCase] = []
    with _pool(min(jobs, len(cases)), jobs) as pool:
        futures = {pool.submit(run_case, case, settings): case for case in cases}
        for future in as_completed(futures):
            try:
                yield future.result()
            except BrokenProcessPool:
                unfinished.append(futures[future])
    for case in unfinished:
        with _pool(1, 1) as pool:
            try:
                yield pool.submit(run_case, case, settings).result()
            except BrokenProcessPool:
                message = "Its process died, killed for memory for example."
                yield CaseResult(case=case, outcome="crashed", message=message)


def _pool(processes: int, jobs: int) -> ProcessPoolExecutor:
    # fork would copy the threads' locks of torch and ONNX Runtime in whatever state they are.
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // jobs)
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_limit_threads, initargs=(threads,))


def _limit_threads(count: int) -> None:
    """Share the cores between the processes; torch reads this when it is imported, which is later."""
    os.environ.setdefault("OMP_NUM_THREADS", str(count))


def _run_on_workers(cases: Sequence[MatrixCase], settings: RunSettings, scheduler: str) -> Iterator[CaseResult]:
    """Connect at once, and return an iterator over the results."""
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingDistributedError(scheduler) from error
    connect: Any = Client  # not annotated throughout
    try:
        client = connect(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:  # ValueError: an address that can't be one
        raise UnreachableSchedulerError(scheduler, str(error) or type(error).__name__) from error
    if not client.scheduler_info(n_workers=-1)["workers"]:
        client.close()
        raise NoWorkersError(scheduler)
    return _results_of_workers(client, cases, settings)


def _results_of_workers(client: Any, cases: Sequence[MatrixCase], settings: RunSettings) -> Iterator[CaseResult]:
    import distributed

    as_finished: Any = distributed.as_completed  # not annotated throughout
    with client:
        # pure would give two equal cases one result, and keep it in the scheduler for the next run
        futures = {client.submit(run_case, case, settings, pure=False): case for case in cases}
        for future in as_finished(futures, loop=client.loop):
            yield _result_of(future, futures[future])


def _result_of(future: Future[CaseResult], case: MatrixCase) -> CaseResult:
    try:
        return future.result()
    except Exception as error:  # noqa: BLE001  # whatever kept a worker from running the case: it died, lacks edgellm, …
        message = f"Its worker could not run it: {type(error).__name__}: {error}"
        return CaseResult(case=case, outcome="crashed", message=message)
