"""The conformance kit's pytest plugin: selection, skips, xfails, and when a run fails."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgellm_core import testing
from edgellm_core.cli.plugins_test import kit_plugin_name
from edgellm_core.host import PluginHost
from edgellm_core.testing.checkpoints import write_family_checkpoint
from edgellm_core.testing.kit.skips import MEANINGS, SkipReason, reason_of
from edgellm_core.testing.plugin_files import family_source, write_plugin
from edgellm_core.testing.records import read_record

HEAVY = ("torch", "transformers", "onnx", "onnx_graphsurgeon", "onnxruntime", "tensorrt", "tensorrt_rtx")
LIST_CHECKS = """
import json
from edgellm_core.testing import conformance
described = {name: function.__doc__ for name, function in conformance.CHECKS.items()}
print(json.dumps({"exported": conformance.__all__, "described": described}))
"""
KNOWN_DEFECT = """
    def attention_attributes(self, module, attributes):
        from dataclasses import replace

        return replace(attributes, scale=attributes.scale * 1.05)

    def tiny_config("""
KNOWN_FAILURES = "known_failures:\n" + "".join(
    f"  L1-parity_{name}: the scale is off by 5 %\n" for name in ("prefill", "decode", "padding", "chunked")
)


@pytest.fixture(scope="module")
def checks():
    """Return the level of each check by the module that holds it, and what the package says about it."""
    done = subprocess.run([sys.executable, "-c", LIST_CHECKS], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_every_check_is_exported_and_named_by_level(checks):
    written = {
        f"L{module.stem[len('test_l')]}-{name}"
        for module in Path(testing.__file__).parent.glob("conformance/test_*.py")
        for name in re.findall(r"^def test_(\w+)", module.read_text(), re.MULTILINE)
    }
    assert written == set(checks["described"])
    assert sorted(checks["exported"]) == sorted(f"test_{name.partition('-')[2]}" for name in written)


def test_every_check_says_what_it_checks(checks):
    assert all(text.strip().endswith(".") for text in checks["described"].values())


@pytest.mark.parametrize("reason", SkipReason, ids=lambda reason: reason.value)
def test_a_skip_carries_its_reason(reason):
    assert reason_of(reason.text("And more.")) is reason
    assert MEANINGS[reason].endswith(".")


@pytest.mark.parametrize("text", ["needs-gpu", "[no-time] Tired.", "", "x [needs-gpu]"])
def test_another_reason_is_none_of_the_set(text):
    assert reason_of(text) is None


def test_loading_the_plugin_imports_nothing_heavy():
    probe = f"import sys, edgellm_core.testing.pytest_plugin; print([n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_it_keeps_quiet_in_other_peoples_runs(tmp_path):
    (tmp_path / "test_other.py").write_text("import sys\ndef test_host():\n    assert 'pluggy' in sys.modules\n")
    command = [sys.executable, "-m", "pytest", "-p", kit_plugin_name(), "-p", "no:cacheprovider", tmp_path]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "edgellm:" not in done.stdout


def test_a_skip_for_another_reason_fails(tmp_path, kit):
    (tmp_path / "test_mine.py").write_text(
        "import pytest\nfrom edgellm_core.testing.kit.check import check\n"
        "@check(0)\ndef test_mine(edgellm_case):\n    pytest.skip('too tired')\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", kit_plugin_name(), "-p", "no:cacheprovider"]
    code, output, outcomes = kit(tmp_path, "--edgellm-family=qwen3", command=command)
    assert (code, outcomes) == (1, {"qwen3-L0-mine": "failure"}), output
    assert "skipped with a reason that the conformance kit does not know: 'too tired'" in output


def test_a_run_that_skipped_everything_fails(kit):
    code, output, outcomes = kit("--edgellm-family=stablelm", "--edgellm-level=2", "-k", "L2 or chat_template_renders")
    assert set(outcomes.values()) == {"skipped"}
    assert code == 1
    assert "every check was skipped, so nothing was proved: no-chat-template (1), no-scheme (1)" in output


def test_levels_above_the_highest_are_left_out(kit):
    _code, output, outcomes = kit("--edgellm-family=qwen3", "--edgellm-level=0", "-k", "not imports")
    assert {name.split("-")[1] for name in outcomes} == {"L0"}
    assert "edgellm: families: qwen3; levels 0 to 0" in output


def test_known_failures_are_expected(tmp_path, write_pack_folder, kit):
    family = [("\n    def tiny_config(", KNOWN_DEFECT)]
    write_pack_folder(tmp_path, "off", family=family, matrix=[("l0:\n", KNOWN_FAILURES + "l0:\n")])
    code, output, _outcomes = kit(f"--edgellm-plugin-path={tmp_path}", "--edgellm-family=off", "-k", "parity")
    assert code == 0, output
    assert "4 xfailed" in output


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("known_failures:\n  L1-parity_of_esteem: why\n", "names 'L1-parity_of_esteem', which is no check"),
        ("known_failures: [L1-io_contract]\n", "must map a check to its reason"),
        ("known_failures:\n  L1-io_contract:\n", "must map a check to its reason"),
        ("known_failures: {\n", "can't be read"),
    ],
    ids=["unknown check", "list", "no reason", "no YAML"],
)
def test_malformed_known_failures_are_an_error(tmp_path, write_pack_folder, kit, lines, problem):
    write_pack_folder(tmp_path, "off", matrix=[("l0:\n", lines + "l0:\n")])
    code, output, _outcomes = kit(f"--edgellm-plugin-path={tmp_path}", "--edgellm-family=off", "--edgellm-level=0")
    assert code == 4
    assert f"ERROR: Family 'off': known_failures of matrix.yaml {problem}" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--edgellm-family=qwn3"], "Unknown family or plugin with a family 'qwn3'. Did you mean 'qwen3'?"),
        (["--edgellm-family=generic"], "Unknown family or plugin with a family 'generic'"),
        (["--edgellm-plugin-path=/nowhere", "--edgellm-family=qwen3"], "Plugin path '/nowhere' does not exist"),
        (["--edgellm-family=qwen3", "--edgellm-weights=qwen3-0.6b=/nowhere"], "--weights must be MODEL=DIR"),
        (["--edgellm-family=qwen3", "--edgellm-weights=qwen3=/"], "Unknown model 'qwen3'"),
    ],
    ids=["family", "generic", "path", "directory", "model"],
)
def test_what_does_not_exist_is_a_usage_error(kit, options, problem):
    code, output, _outcomes = kit(*options)
    assert code == 4
    assert problem in output
    assert "Traceback" not in output


def test_the_header_names_broken_packs(tmp_path, kit):
    (tmp_path / "bad.py").write_text("import nothing_of_that_name\n")
    _code, output, _outcomes = kit(
        f"--edgellm-plugin-path={tmp_path}", "--edgellm-family=qwen3", "--edgellm-level=0", "-k", "versions"
    )
    assert "edgellm: broken pack 'bad' (path): Plugin 'bad' can't be imported" in output


@pytest.mark.parametrize("name", ["old", "ancient"])
def test_a_family_for_another_transformers_is_skipped_with_its_reason(tmp_path, kit, name):
    source = family_source("ancient", ["ancient"]).replace("    name =", "    transformers = '<5'\n    name =")
    write_plugin(tmp_path, "old", source)
    options = (f"--edgellm-plugin-path={tmp_path}", "--edgellm-level=0", "-rs")
    code, output, outcomes = kit(*options, f"--edgellm-family={name}", "--edgellm-family=qwen3")
    assert code == 0, output
    assert outcomes["ancient-L0-versions_fit"] == "skipped"
    assert outcomes["qwen3-L0-versions_fit"] == "passed"
    assert "[needs-transformers] The installed transformers is outside the family's range. Plugin 'old'" in output
    code, output, outcomes = kit(*options, f"--edgellm-family={name}")
    assert set(outcomes.values()) == {"skipped"}
    assert code == 1
    assert "nothing was proved: needs-transformers" in output


def test_level_4_builds_given_weights_and_records_it(tmp_path, kit):
    family = PluginHost.load(environ={}).select({}, forced="qwen3").family
    config = {**family.tiny_config(), "head_dim": 24}
    weights = write_family_checkpoint(tmp_path / "weights", family, config=config)
    code, output, outcomes = kit(
        "--edgellm-family=qwen3", "--edgellm-level=4", f"--edgellm-weights=qwen3-0.6b={weights}",
        f"--edgellm-record={tmp_path / 'records'}", "-k", "L4",
    )  # fmt: skip
    assert code == 0, output
    assert outcomes["qwen3-L4-build-qwen3-0.6b-fp16"] == "passed"
    assert outcomes["qwen3-L4-build-qwen3-8b-fp16"] == "skipped"
    assert "[needs-weights]" in output
    record = read_record(tmp_path / "records" / "qwen3-0.6b-fp16.json")
    assert (record.family.name, record.verification.status, record.source.id) == ("qwen3", "passed", "weights")
    assert (
        json.loads((tmp_path / "records" / "qwen3-0.6b-fp16.json").read_text())["engine"]["compute_capability"] == 120
    )
