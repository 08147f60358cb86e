"""The conformance kit on what is in the repository: every family, and the packs under ``tests/packs``."""

from __future__ import annotations

import os
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from edgellm_core.cli.plugins_test import kit_command
from edgellm_core.host import PluginHost
from edgellm_core.registry import ModelRegistry
from edgellm_core.testing.conformance import CHECKS
from edgellm_core.testing.kit.known_failures import known_failures
from edgellm_core.testing.kit.plan import CaseKey, Plan
from edgellm_core.testing.kit.skips import SkipReason, reason_of

ROOT = Path(__file__).parents[2]
IN_TREE = ",".join(sorted(path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py")))
HOST = PluginHost.load(environ={"EDGELLM_PLUGINS": IN_TREE})  # not the packs that happen to be installed
FAMILIES = [family for record in HOST.records if record.origin == "in-tree" for family in record.families]
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

ENGINE = "L3-engine_tensorrt_rtx"


def cases():
    """Return family and check: all of levels 0 to 2, and the engine where the family stands for its kind."""
    for family in FAMILIES:
        known = known_failures(HOST.select({}, forced=family).family)
        for check in CHECKS:
            if check[:2] in {"L0", "L1", "L2"} or (check == ENGINE and family in KINDS.values()):
                marks = [pytest.mark.xfail(reason=known[check], strict=True)] if check in known else []
                yield pytest.param(family, check, id=f"{family}-{check}", marks=marks)


@pytest.fixture(scope="module")
def plan():
    families = [HOST.select({}, forced=family).family for family in FAMILIES]
    return Plan(
        host=HOST, families=families, unfit={}, known_failures={}, registry=ModelRegistry.load(), weights={},
        download=False, record=None, plugin_paths=(),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # as under the kit's own command
@pytest.mark.parametrize(("family", "check"), list(cases()))
def test_family(plan, family, check, tmp_path_factory):
    level, _, name = check[1:].partition("-")
    try:
        CHECKS[check](plan.open(CaseKey(family=family, level=int(level), check=name), tmp_path_factory))
    except pytest.skip.Exception as skipped:
        assert reason_of(str(skipped)) in {SkipReason.NO_CHAT_TEMPLATE, SkipReason.NO_SCHEME}  # noqa: PT017


def run_kit(folder, *options):
    """Run the kit; return exit code, output and results by id."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("EDGELLM_PLUGIN")}
    results = folder / "results.xml"
    command = [*kit_command(), "-q", f"--junitxml={results}", *options]
    done = subprocess.run(command, env=others, capture_output=True, text=True, check=False)
    assert results.is_file(), done.stdout + done.stderr
    cases = {case.get("name").partition("[")[2].rstrip("]"): case for case in ET.parse(results).iter("testcase")}
    return done.returncode, done.stdout, cases


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
