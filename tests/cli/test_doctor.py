from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version

import pytest
from click.testing import CliRunner

from edgellm_core.cli import edgellm
from edgellm_core.doctor import PackageState, diagnose, package_hints, package_states


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "not made yet"))
    return tmp_path / "not made yet"


def test_text_shows_versions_machine_and_hints():
    result = CliRunner().invoke(edgellm, ["doctor"])
    assert result.exit_code == 0
    assert f"Python    {sys.version.split()[0]}" in result.output
    for name in ("torch", "onnxruntime", "tensorrt-rtx"):
        assert any(line.split() == [name, version(name)] for line in result.output.splitlines())
    hint = next(line for line in result.output.splitlines() if line.startswith("  - tensorrt is missing"))
    assert hint.endswith('(--engine tensorrt): pip install "edgellm[tensorrt]".')


def test_json_has_the_same_facts(cache):
    result = CliRunner().invoke(edgellm, ["doctor", "--json"])
    facts = json.loads(result.output)
    assert facts["edgellm"] == version("edgellm")
    assert facts["cache"] == str(cache)
    assert facts["cache_writable"]
    assert not cache.exists()
    assert 0 < facts["ram_free_bytes"] <= facts["ram_bytes"]
    packages = {package["name"]: package for package in facts["packages"]}
    assert packages["torch"]["installed"] == version("torch")
    assert not packages["torch"]["optional"]
    assert packages["tensorrt"] == {
        "name": "tensorrt", "installed": None, "required": ">=10.13", "optional": True, "fits": True
    }  # fmt: skip


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from edgellm_core.doctor import diagnose; diagnose(); "
        "heavy = {'torch', 'transformers', 'onnx', 'onnxruntime', 'tensorrt', 'tensorrt_rtx'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_required_packages_come_first_and_development_tools_are_left_out():
    states = package_states()
    assert [state.optional for state in states] == sorted(state.optional for state in states)
    names = {state.name for state in states}
    assert {"torch", "click", "tensorrt-rtx"} <= names
    assert names.isdisjoint({"pytest", "ruff", "mypy"})


@pytest.mark.parametrize(
    ("package", "hint"),
    [
        (("torch", "1.0", ">=2.9", False, False), 'torch 1.0 is outside >=2.9: pip install "torch>=2.9".'),
        (("onnx", None, ">=1.19", False, True), "onnx is missing; edgellm needs it: pip install edgellm."),
        (
            ("tensorrt-rtx", None, ">=1.1", True, True),
            (
                "tensorrt-rtx is missing; it enables engines for RTX GPUs, built without a GPU "
                '(--engine tensorrt-rtx): pip install "edgellm[rtx]".'
            ),
        ),
    ],
)
def test_hints_say_what_to_do(package, hint):
    fields = dict(zip(("name", "installed", "required", "optional", "fits"), package, strict=True))
    assert package_hints([PackageState(**fields)]) == [hint]


def test_packages_that_are_there_need_no_hint():
    assert package_hints([PackageState(name="onnx", installed="1.20", required="", optional=False, fits=True)]) == []


def test_unwritable_cache_is_said(monkeypatch):
    monkeypatch.setenv("EDGELLM_CACHE", "/proc/nowhere")
    assert any("can't be written" in hint for hint in diagnose().hints)
