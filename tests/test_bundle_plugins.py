"""Bundles of plugins that are there, gone or broken."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgellm_core.bundle import FamilyRecord, TargetPluginRecord, load_bundle, read_manifest, write_manifest
from edgellm_core.bundle.errors import MissingPluginError
from edgellm_core.bundle.plugins import require_family, target_of
from edgellm_core.host import PluginHost
from edgellm_core.testing.decoder_bundle import write_decoder_bundle
from edgellm_core.testing.plugin_files import family_source, write_plugin

NOVA = Path(__file__).parent / "packs" / "edgellm-nova" / "src"
RUN_EDGELLM = "from edgellm_core.cli import main; main()"
FROM_PIP = {"plugin": "nova", "version": "1.2.0", "package": "edgellm-nova"}
FROM_FOLDER = {"plugin": "nova", "version": "", "package": ""}
PIP_REMEDY = "plugin 'nova' (package edgellm-nova 1.2.0) and is not installed. Run: pip install edgellm-nova==1.2.0."


def edgellm(*arguments):
    command = [sys.executable, "-c", RUN_EDGELLM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "tiny"
    script = (
        "import sys; from pathlib import Path; from edgellm_core.host import PluginHost;"
        "from edgellm_core.testing.checkpoints import write_family_checkpoint as write;"
        "write(Path(sys.argv[2]), PluginHost.load([Path(sys.argv[1])]).select({}, forced='nova').family)"
    )
    subprocess.run([sys.executable, "-c", script, NOVA, folder], check=True)
    return folder


@pytest.fixture
def bundle(tmp_path):
    return write_decoder_bundle(tmp_path / "bundle")


def changed(bundle, **fields):
    write_manifest(bundle.directory, bundle.manifest.model_copy(update=fields))
    return load_bundle(bundle.directory)


def test_a_target_of_a_pack_is_built_run_and_verified_with_its_own_session(tiny, tmp_path):
    out, path = tmp_path / "bundle", ("--plugin-path", NOVA)
    built = edgellm("build", tiny, "-o", out, "--target", "nova-rt", "--precision", "fp32", "--engine", "none", *path)
    assert built.returncode == 0, built.stderr
    manifest = read_manifest(out)
    assert manifest.target == "nova-rt"
    assert manifest.target_plugin == TargetPluginRecord(plugin="edgellm_nova", version="", package="")
    ran = edgellm("run", out, "hello", "--max-new-tokens", "3", "--json", *path)
    assert ran.returncode == 0, ran.stderr
    assert "a session of nova-rt begins" in ran.stderr
    assert len(json.loads(ran.stdout)["tokens"]) <= 3
    verified = edgellm("verify", out, "--source", tiny, *path)
    assert verified.returncode == 0, verified.stderr
    gone = edgellm("run", out, "hello")
    assert gone.returncode == 1
    assert "needs target 'nova-rt', which came from plugin 'edgellm_nova' (a folder)" in gone.stderr


@pytest.mark.parametrize("command", [("run", "hello"), ("engine",), ("verify",)], ids=lambda command: command[0])
def test_every_command_names_the_package_of_a_target_that_is_gone(command, bundle):
    changed(bundle, target="nova-rt", target_plugin=TargetPluginRecord(**FROM_PIP))
    done = edgellm(command[0], bundle.directory, *command[1:])
    assert done.returncode == 1
    assert f"needs target 'nova-rt', which came from {PIP_REMEDY}" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("maker", "remedy"),
    [(FROM_PIP, PIP_REMEDY), (FROM_FOLDER, "(a folder) and is not installed. Name its folder in EDGELLM_PLUGIN_PATH.")],
    ids=["pip", "folder"],
)
def test_a_family_that_is_gone_is_named_with_what_brought_it(maker, remedy, bundle):
    loaded = changed(bundle, family=FamilyRecord(name="nova", **maker))
    with pytest.raises(MissingPluginError, match=f"needs family 'nova', which came from .*{re.escape(remedy)}$"):
        require_family(loaded, PluginHost.load([], {}))


def test_a_plugin_that_is_there_and_broken_says_why(bundle, tmp_path):
    write_plugin(tmp_path / "nova", "__init__", "import library_that_nobody_installed\n")
    loaded = changed(bundle, family=FamilyRecord(name="nova", **FROM_FOLDER))
    host = PluginHost.load([tmp_path / "nova"], {}, skip_named=True)
    with pytest.raises(MissingPluginError, match=r"is not loaded: Plugin 'nova' can't be imported"):
        require_family(loaded, host)


def test_a_plugin_that_no_longer_brings_it_says_so(bundle, tmp_path):
    write_plugin(tmp_path / "nova", "__init__", family_source("other", ["other"]))
    loaded = changed(bundle, target="nova-rt", target_plugin=TargetPluginRecord(**FROM_FOLDER))
    with pytest.raises(MissingPluginError, match=r"version \(none\) is there, active, and does not bring it\.$"):
        target_of(loaded, PluginHost.load([tmp_path / "nova"], {}))
