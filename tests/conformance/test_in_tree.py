"""The conformance kit on what is in the repository: every family, and the packs under ``tests/packs``."""

from __future__ import annotations

import os
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from edgellm_core.cli.plugins_test import kit_command
from edgellm_core.host import PluginHost

ROOT = Path(__file__).parents[2]
FAMILIES = [
    family for record in PluginHost.load(environ={}).records if record.origin == "in-tree" for family in record.families
]
PACKS = {"edgellm-acme": "acme"}
KINDS = {
    "dense": "llama",
    "window": "qwen2",
    "norm on heads": "qwen3",
    "parallel block": "cohere",
    "capped attention": "gemma2",
    "RoPE by length": "phi3",
    "experts": "qwen2_moe",
    "sinks and experts with biases": "gpt_oss",
}
"""Kind of decoder → the family whose engine is built for it in continuous integration."""


def run_kit(folder, *options):
    """Run the kit without the packs that happen to be installed; return exit code, output and results by id."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("EDGELLM_PLUGIN")}
    in_tree = ",".join(path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py"))
    paths = [option for option in options if str(option).startswith("--edgellm-plugin-path")]
    environ = others if paths else {**others, "EDGELLM_PLUGINS": in_tree}
    results = folder / "results.xml"
    command = [*kit_command(), "-q", f"--junitxml={results}", *options]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert results.is_file(), done.stdout + done.stderr
    cases = {case.get("name").partition("[")[2].rstrip("]"): case for case in ET.parse(results).iter("testcase")}
    return done.returncode, done.stdout, cases


def failures(cases, family):
    """Return id → what was wrong for the checks of a family that neither passed nor were skipped."""
    return {
        name: problem.text
        for name, case in cases.items()
        if name.startswith(f"{family}-L")
        for problem in case
        if problem.tag in {"failure", "error"}
    }


@pytest.fixture(scope="module")
def levels_0_and_1(tmp_path_factory):
    return run_kit(tmp_path_factory.mktemp("in-tree"), *(f"--edgellm-family={name}" for name in FAMILIES))


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    options = [f"--edgellm-family={name}" for name in KINDS.values()]
    return run_kit(tmp_path_factory.mktemp("engines"), *options, "--edgellm-level=3", "-k", "L3")


@pytest.mark.parametrize("family", FAMILIES)
def test_levels_0_and_1(levels_0_and_1, family):
    _code, _output, cases = levels_0_and_1
    assert failures(cases, family) == {}
    ran = [name for name, case in cases.items() if name.startswith(f"{family}-L") and not list(case.iter("skipped"))]
    assert len(ran) >= 14


def test_the_run_of_all_families_passes(levels_0_and_1):
    code, output, cases = levels_0_and_1
    assert code == 0, output
    assert {name.partition("-L")[0] for name in cases} == set(FAMILIES)


@pytest.mark.parametrize("kind", KINDS)
def test_level_3_of_one_family_a_kind(engines, kind):
    _code, output, cases = engines
    assert failures(cases, KINDS[kind]) == {}
    assert not list(cases[f"{KINDS[kind]}-L3-engine_tensorrt_rtx"].iter("skipped")), output


@pytest.mark.parametrize(("pack", "family"), PACKS.items(), ids=PACKS)
def test_a_pack_passes_levels_0_and_1(tmp_path, pack, family):
    path = ROOT / "tests" / "packs" / pack / "src"
    code, output, cases = run_kit(tmp_path, f"--edgellm-family={family}", f"--edgellm-plugin-path={path}")
    assert code == 0, output
    assert not [name for name, case in cases.items() if list(case.iter("skipped"))]


def test_a_broken_pack_is_named_and_not_checked(tmp_path):
    path = ROOT / "tests" / "packs" / "edgellm-broken" / "src"
    command = [*kit_command(), "--edgellm-family=edgellm_broken", f"--edgellm-plugin-path={path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Plugin 'edgellm_broken' can't be checked, because it was skipped" in done.stdout + done.stderr
    assert "library_that_nobody_installed" in done.stdout + done.stderr
