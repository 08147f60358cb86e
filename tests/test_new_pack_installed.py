"""A pack made by ``edgellm plugins new``, from pip install to pip uninstall, in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from edgellm_core.cli.plugins_test import kit_plugin_name

pytestmark = pytest.mark.slow
RUN_EDGELLM = "from edgellm_core.cli import main; main()"
WRITE_TINY = """
import sys
from pathlib import Path
from edgellm_core.host import PluginHost
from edgellm_core.testing.checkpoints import write_family_checkpoint
write_family_checkpoint(Path(sys.argv[1]), PluginHost.load().select({}, forced="acme").family)
"""


def run(*command, cwd=None, code=0):
    others = {name: value for name, value in os.environ.items() if not name.startswith("EDGELLM_PLUGIN")}
    command = [str(part) for part in command]
    done = subprocess.run(command, cwd=cwd, env=others, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + (done.stderr if code else "")


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Return the Python of an environment that sees this one's packages and has nothing of its own."""
    root = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(root, symlinks=True, with_pip=False)
    python = root / "bin" / "python"
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip()
    # addsitedir and not a bare path: it also reads the .pth file of an editable install of edgellm.
    ours = sysconfig.get_paths()["purelib"]
    Path(purelib, "outer.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    return python


@pytest.fixture(scope="module")
def pack(python, tmp_path_factory):
    """Return the folder of a new pack that is installed."""
    folder = tmp_path_factory.mktemp("pack") / "edgellm-acme"
    run(python, "-c", RUN_EDGELLM, "plugins", "new", "acme", "--directory", folder)
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--no-compile"]
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, folder)
    return folder


@pytest.fixture(scope="module")
def tiny(python, pack):
    """Return a checkpoint of the pack's tiny model."""
    run(python, "-c", WRITE_TINY, pack.parent / "tiny")
    return pack.parent / "tiny"


def test_its_own_tests_pass(python, pack):
    output = run(python, "-m", "pytest", "-p", kit_plugin_name(), cwd=pack)
    assert "edgellm: families: acme; levels 0 to 1" in output
    assert "18 passed" in output
    assert "skipped" not in output


def test_detect_finds_it(python, tiny):
    found = json.loads(run(python, "-c", RUN_EDGELLM, "detect", tiny, "--json"))
    assert {key: found["family"][key] for key in ("name", "plugin", "origin", "version")} == {
        "name": "acme", "plugin": "acme", "origin": "entry point", "version": "0.1.0",
    }  # fmt: skip


def test_build_builds_its_tiny_model(python, tiny, tmp_path):
    run(python, "-c", RUN_EDGELLM, "build", tiny, "-o", tmp_path / "out", "--engine", "none", "--precision", "fp32")
    manifest = json.loads((tmp_path / "out" / "bundle.json").read_text())
    expected = {"name": "acme", "plugin": "acme", "version": "0.1.0", "package": "edgellm-acme"}
    assert manifest["family"] == expected
    assert manifest["verification"]["status"] == "passed"
    assert (tmp_path / "out" / "llm" / "chat_template.jinja").read_text().startswith("{%- for message in messages -%}")


# The last one: what comes before needs the pack.
def test_uninstalling_it_brings_the_generic_answer_back(python, tiny, tmp_path):
    run(sys.executable, "-m", "pip", "--python", python, "uninstall", "--quiet", "--yes", "edgellm-acme")
    found = json.loads(run(python, "-c", RUN_EDGELLM, "detect", tiny, "--json"))
    assert found["family"]["name"] == "generic"
    refused = run(python, "-c", RUN_EDGELLM, "build", tiny, "-o", tmp_path / "out", code=1)
    assert "'acme'" in refused
    assert list(tmp_path.iterdir()) == []
