"""Real packs, installed with pip into a temporary environment and found through their entry points."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

PACKS = Path(__file__).parent / "packs"
RUN_EDGELLM = "from edgellm_core.cli import main; main()"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Return the Python of an environment that sees this one's packages, with both packs installed on top."""
    root = tmp_path_factory.mktemp("environment")
    venv.create(root / "venv", symlinks=True, with_pip=False)
    python = root / "venv" / "bin" / "python"
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip()
    # addsitedir and not a bare path: it also reads the .pth file of an editable install of edgellm.
    ours = sysconfig.get_paths()["purelib"]
    Path(purelib, "outer.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    for pack in ("edgellm-acme", "edgellm-broken"):
        shutil.copytree(PACKS / pack, root / pack)  # setuptools builds inside the source folder
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps",
        "--no-build-isolation", "--no-compile", root / "edgellm-acme", root / "edgellm-broken",
    )  # fmt: skip
    return python


def run(*command, environ=None):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def edgellm(python, *arguments, environ=None):
    return run(python, "-c", RUN_EDGELLM, *arguments, environ=environ)


def test_an_installed_pack_is_found_and_a_broken_one_is_named_and_skipped(environment):
    records = {record["name"]: record for record in json.loads(edgellm(environment, "plugins", "list", "--json"))}
    acme, broken = records["acme"], records["broken"]
    assert (acme["origin"], acme["version"], acme["status"], acme["error"]) == ("entry point", "1.2.3", "active", None)
    assert acme["families"] == ["acme"]
    assert acme["claims"] == [
        {"key": "model_type", "value": "acme"},
        {"key": "architectures", "value": "AcmeForCausalLM"},
        {"key": "command", "value": "acme-hello"},
    ]
    assert Path(acme["location"]).name == "edgellm_acme"
    assert (broken["origin"], broken["version"], broken["status"]) == ("entry point", "0.0.1", "skipped")
    assert "library_that_nobody_installed" in broken["error"]
    assert all(records[name]["status"] == "active" for name in ("generic", "llama", "qwen2", "qwen3"))


def test_the_table_says_why_the_broken_pack_is_skipped(environment):
    output = edgellm(environment, "plugins", "list")
    error = "Plugin 'broken' can't be imported: ModuleNotFoundError: No module named 'library_that_nobody_installed'"
    assert f"broken (entry point): {error}" in output


def test_the_pack_claims_its_model_and_brings_its_chat_template(environment):
    script = (
        "from edgellm_core.host import PluginHost; host = PluginHost.load();"
        "selection = host.select({'model_type': 'acme'});"
        "print(selection.plugin.name, selection.family.chat_template().startswith('{%'), *host.commands())"
    )
    assert run(environment, "-c", script).split() == ["acme", "True", "acme-hello"]


@pytest.mark.parametrize(
    ("pack", "status"), [("edgellm-acme", "active"), ("edgellm-broken", "skipped")], ids=["acme", "broken"]
)
def test_a_pack_can_be_dropped_in_without_installing(pack, status):
    output = edgellm(sys.executable, "plugins", "list", "--json", "--plugin-path", PACKS / pack / "src")
    record = next(record for record in json.loads(output) if record["origin"] == "path")
    assert record["status"] == status
