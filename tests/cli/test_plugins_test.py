"""``edgellm plugins test``."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from click.testing import CliRunner

from edgellm_core.cli import edgellm
from edgellm_core.cli.errors import MissingPytestError
from edgellm_core.cli.new_pack import pack_names, plain_facts, write_pack

RUN_EDGELLM = "from edgellm_core.cli import main; main()"


def written_pack(folder):
    names = pack_names("acme", ())
    write_pack(names, folder / "pack", plain_facts(names))
    return folder / "pack"


def run(*arguments, cwd=None):
    command = [sys.executable, "-c", RUN_EDGELLM, "plugins", "test", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_it_passes_a_pack_by_its_path_and_writes_junit(tmp_path):
    pack = written_pack(tmp_path)
    # Another configuration of pytest in the current directory must not matter.
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    done = run(
        "acme", "--level", 0, "--plugin-path", pack / "src", "--junit", tmp_path / "results.xml", cwd=tmp_path
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    names = [case.get("name") for case in ET.parse(tmp_path / "results.xml").iter("testcase")]
    assert "test_claims_are_held[acme-L0-claims_are_held]" in names
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pack", "pytest.ini", "results.xml"]


def test_a_plugins_name_stands_for_its_families(tmp_path):
    pack = written_pack(tmp_path)
    done = run("edgellm_acme", "--level", 0, "--plugin-path", pack / "src", "-k", "versions_fit")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "edgellm: families: acme; levels 0 to 0" in done.stdout


def test_a_failing_family_gives_exit_code_1(tmp_path):
    pack = written_pack(tmp_path)
    (pack / "src" / "edgellm_acme" / "README.md").unlink()
    done = run("acme", "--level", 0, "--plugin-path", pack / "src", "-k", "readme")
    assert done.returncode == 1
    assert "family 'acme' has no README.md" in done.stdout


def test_an_unknown_name_is_one_sentence():
    done = run("qwn3")
    assert done.returncode == 4
    assert "Did you mean 'qwen3'?" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_selection_without_checks_has_a_code_of_its_own():
    assert run("qwen3", "--level", 0, "-k", "no_such_check").returncode == 5


def test_without_pytest_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytest", None)
    result = CliRunner().invoke(edgellm, ["plugins", "test", "qwen3"])
    assert isinstance(result.exception, MissingPytestError)
    assert "edgellm[test]" in str(result.exception)


@pytest.mark.parametrize("level", ["-1", "5", "high"])
def test_a_level_that_does_not_exist_is_refused(level):
    assert CliRunner().invoke(edgellm, ["plugins", "test", "qwen3", "--level", level]).exit_code == 2
