"""Cases over processes and over the workers of a Dask cluster, with workers that die."""

from __future__ import annotations

import sys

import pytest

from edgellm_core.errors import InvalidSettingError
from edgellm_core.matrix import parse
from edgellm_core.matrix.errors import MissingDistributedError, NoWorkersError, UnreachableSchedulerError
from edgellm_core.matrix.run import RunSettings
from edgellm_core.matrix.selection import MatrixCase
from edgellm_core.matrix.spread import run_cases

DIES = "import os; os._exit(3)"


def case(entry, family="llama"):
    return MatrixCase(family=family, tier="l0", entry=parse(entry))


def outcomes(results):
    return sorted((result.case.family, str(result.case.entry), result.outcome) for result in results)


def test_one_process_yields_each_result_when_it_is_there(monkeypatch):
    cases = [case("tiny-int4_gptq"), case("tiny-fp16-lora")]
    results = run_cases(cases, RunSettings())
    assert next(results).case is cases[0]
    assert next(results).case is cases[1]


def test_a_process_that_dies_costs_its_own_case_only(pack):
    settings = RunSettings(plugin_paths=(pack({"mine": DIES}, ""),))
    cases = [case("tiny-fp32", "mine"), case("tiny-fp16-lora"), case("tiny-int4_gptq")]
    results = list(run_cases(cases, settings, jobs=2))
    assert outcomes(results) == [
        ("llama", "tiny-fp16-lora", "skipped"),
        ("llama", "tiny-int4_gptq", "skipped"),
        ("mine", "tiny-fp32", "crashed"),
    ]
    message = next(result.message for result in results if result.outcome == "crashed")
    assert message == "Its process died, killed for memory for example."


@pytest.fixture(scope="module")
def cluster():
    """A scheduler and two worker processes on this machine."""
    from distributed import LocalCluster

    options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": 50}
    with LocalCluster(n_workers=2, processes=True, **options) as started:
        yield started.scheduler_address


def test_workers_share_the_cases(cluster, pack):
    settings = RunSettings(plugin_paths=(pack({"mine": "raise KeyError('odd')"}, ""),))
    cases = [case("tiny-fp32", "mine"), case("tiny-fp32-mxsl64"), case("tiny-fp16-lora")]
    assert outcomes(run_cases(cases, settings, scheduler=cluster)) == [
        ("llama", "tiny-fp16-lora", "skipped"),
        ("llama", "tiny-fp32-mxsl64", "passed"),
        ("mine", "tiny-fp32", "failed"),
    ]


def test_equal_cases_run_each(cluster):
    assert len(list(run_cases([case("tiny-int4_gptq")] * 3, RunSettings(), scheduler=cluster))) == 3


def test_a_worker_that_dies_again_and_again_costs_its_own_case_only(cluster, pack):
    settings = RunSettings(plugin_paths=(pack({"mine": DIES}, ""),))
    results = list(run_cases([case("tiny-fp32", "mine"), case("tiny-int4_gptq")], settings, scheduler=cluster))
    assert outcomes(results) == [("llama", "tiny-int4_gptq", "skipped"), ("mine", "tiny-fp32", "crashed")]
    assert "Its worker could not run it: KilledWorker: " in next(result.message for result in results if result.bad)


def test_a_scheduler_without_workers_is_refused():
    from distributed import LocalCluster

    with (
        LocalCluster(n_workers=0, dashboard_address=":0") as cluster,
        pytest.raises(NoWorkersError, match=f"--scheduler {cluster.scheduler_address} has no workers"),
    ):
        run_cases([case("tiny-int4_gptq")], RunSettings(), scheduler=cluster.scheduler_address)


@pytest.mark.parametrize(
    ("address", "reason"),
    [("tcp://127.0.0.1:9", "Timed out"), ("nonsense", "missing port"), ("udp://127.0.0.1:9", "unknown address")],
)
def test_an_address_where_no_scheduler_answers_is_refused(monkeypatch, address, reason):
    monkeypatch.setattr("edgellm_core.matrix.spread.CONNECT_SECONDS", 0.5)
    with pytest.raises(UnreachableSchedulerError, match=f"--scheduler {address} must be .*{reason}"):
        run_cases([case("tiny-int4_gptq")], RunSettings(), scheduler=address)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingDistributedError, match=r'pip install "edgellm\[distributed\]"'):
        run_cases([case("tiny-int4_gptq")], RunSettings(), scheduler="tcp://127.0.0.1:9")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"jobs": 0}, "--jobs must be at least 1; got 0"),
        ({"jobs": 2, "scheduler": "tcp://a:1"}, "--jobs can't be combined with --scheduler"),
    ],
)
def test_wrong_numbers_of_processes_are_refused(options, problem):
    with pytest.raises(InvalidSettingError, match=problem):
        run_cases([], RunSettings(), **options)
