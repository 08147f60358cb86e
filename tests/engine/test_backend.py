from __future__ import annotations

import pytest

from edgellm_core.engine.backend import BACKENDS, Backend, choose_backend, known_compute_capabilities
from edgellm_core.engine.errors import MissingBackendError, NoBackendError, NoGpuError, UnknownComputeCapabilityError
from edgellm_core.engine.gpu import find_gpus
from edgellm_core.errors import UnknownNameError
from edgellm_core.events import Reporter


@pytest.fixture
def report():
    notes = []
    reporter = Reporter("engine", lambda event: notes.append(event.message))
    reporter.notes = notes
    return reporter


def test_none_builds_no_engine(report):
    assert choose_backend("none", report) is None
    assert report.notes == []


def test_auto_says_what_it_took(report):
    backend = choose_backend("auto", report)
    assert backend is BACKENDS["tensorrt-rtx"]
    assert report.notes == [f"Engine: tensorrt-rtx, version {backend.version()}."]


def test_auto_without_any_package_is_none(report, monkeypatch):
    monkeypatch.setattr("sys.path", [])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose_backend("auto", report) is None
    assert report.notes == []
    assert (
        str(NoBackendError())
        == 'No engine was built: neither TensorRT with a GPU nor TensorRT-RTX is here. Run: pip install "edgellm[rtx]".'
    )


def test_missing_package_names_the_extra(report):
    with pytest.raises(MissingBackendError, match=r'needs the package tensorrt, .* pip install "edgellm\[tensorrt\]"'):
        choose_backend("tensorrt", report)


def test_package_that_does_not_load_names_the_reason(tmp_path, monkeypatch):
    (tmp_path / "broken_builder.py").write_text("import a_library_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    backend = Backend(name="broken", module_name="broken_builder", extra="rtx", needs_gpu=False, profile_names=())
    assert backend.installed()
    with pytest.raises(
        MissingBackendError, match=r"importing it failed \(No module named 'a_library_that_is_not_there'"
    ):
        backend.load()


def test_unknown_choice_is_refused(report):
    with pytest.raises(UnknownNameError, match=r"Unknown engine 'tensorrt-rtz'\. Did you mean 'tensorrt-rtx'\?"):
        choose_backend("tensorrt-rtz", report)


def test_compute_capabilities_come_from_the_package():
    known = known_compute_capabilities(BACKENDS["tensorrt-rtx"].load())
    assert {75, 80, 86, 89, 120} <= set(known)
    assert known == sorted(known)
    assert all(BACKENDS["tensorrt-rtx"].target(value) == value for value in (*known, None))


def test_unknown_compute_capability_lists_the_known():
    with pytest.raises(UnknownComputeCapabilityError, match=r"--sm must be .*; got 99\. Use 75, "):
        BACKENDS["tensorrt-rtx"].target(99)


def test_backend_that_needs_a_gpu_says_so_without_one(monkeypatch):
    monkeypatch.setattr("edgellm_core.engine.backend.find_gpus", list)
    with pytest.raises(NoGpuError, match=r"--engine tensorrt builds on the GPU .* Use --engine tensorrt-rtx"):
        BACKENDS["tensorrt"].target(120)


def test_gpus_have_sensible_values():
    for gpu in find_gpus():
        assert gpu.name
        assert gpu.compute_capability >= 50
        assert gpu.memory_bytes > 2**28
