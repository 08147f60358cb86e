"""Builds at the same time: of one output one after the other, of one source side by side, over one cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgellm_core.bundle import load_bundle
from edgellm_core.bundle.errors import BundleReplacedError, DamagedBundleError
from edgellm_core.bundle.locking import locked
from edgellm_core.bundle.publishing import publish
from edgellm_core.pipeline.build import build
from edgellm_core.pipeline.workspace import PREFIX
from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from tests.pipeline.conftest import LLAMA

EDGELLM = Path(sys.executable).with_name("edgellm")
QUICK = ("--engine", "none", "--precision", "fp32", "--verify", "off")


@pytest.fixture(scope="module")
def other_llama(tmp_path_factory):
    """A tiny Llama of another width."""
    config = {**LLAMA, "intermediate_size": 80}
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "other", config)


def start(source, out, *options, command="build", cache=None):
    environment = {**os.environ, **({"EDGELLM_CACHE": str(cache)} if cache else {})}
    arguments = [EDGELLM, command, source, "-o", out, *options]
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process):
    output, errors = process.communicate(timeout=300)
    assert "Traceback" not in output + errors
    assert "defect" not in output + errors
    return process.returncode, output, errors


def left_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.mark.slow
def test_of_two_builds_into_one_output_the_second_waits_and_is_refused(llama, other_llama, tmp_path):
    out = tmp_path / "out"
    processes = [start(source, out, *QUICK) for source in (llama, other_llama)]
    results = [finished(process) for process in processes]
    assert sorted(code for code, *_ in results) == [0, 1]
    winner = [llama, other_llama][[code for code, *_ in results].index(0)]
    refused = next(errors for code, _, errors in results if code)
    assert "holds a bundle already. Replace it with --force" in refused
    manifest = load_bundle(out).manifest
    assert manifest.source.id == str(winner)
    assert (out / "llm/config.json").read_bytes() == (winner / "config.json").read_bytes()
    assert left_in(tmp_path) == []


@pytest.mark.slow
def test_two_builds_that_replace_one_output_both_end_right(llama, other_llama, tmp_path):
    out = tmp_path / "out"
    processes = [start(source, out, *QUICK, "--force") for source in (llama, other_llama)]
    results = [finished(process) for process in processes]
    assert [code for code, *_ in results] == [0, 0]
    assert sum("is in use by process" in errors for _, _, errors in results) == 1
    source = Path(load_bundle(out).manifest.source.id)
    assert (out / "llm/config.json").read_bytes() == (source / "config.json").read_bytes()
    assert left_in(tmp_path) == []


@pytest.mark.slow
def test_builds_of_one_source_share_an_empty_cache(llama, tmp_path):
    options = ("--engine", "none", "--precision", "fp32")
    processes = [start(llama, tmp_path / name, *options, cache=tmp_path / "cache") for name in ("one", "two")]
    assert [finished(process)[0] for process in processes] == [0, 0]
    graphs = {(tmp_path / name / "llm/model.onnx").read_bytes() for name in ("one", "two")}
    assert len(graphs) == 1
    assert [path.name for path in (tmp_path / "cache").rglob(".*")] == []


@pytest.mark.parametrize("command", ["build", "export", "quantize"])
def test_no_wait_refuses_at_once_and_touches_nothing(command, llama, tmp_path):
    out = tmp_path / "out"
    work = tmp_path / f"{PREFIX}out"
    work.mkdir()
    (work / "stages.json").write_text("{}")
    options = ("--precision", "int4_awq" if command == "quantize" else "fp32", "--no-cache", "--no-wait")
    with locked(out):
        code, _, errors = finished(start(llama, out, *options, command=command))
    assert code == 1
    assert f"'{out}' is in use by process {os.getpid()} on " in errors
    assert (work / "stages.json").read_text() == "{}"


def test_a_build_that_waits_says_so_in_json(llama, tmp_path):
    with locked(tmp_path / "out"):
        process = start(llama, tmp_path / "out", *QUICK, "--json")
        events = [json.loads(process.stdout.readline()) for _ in range(2)]
    assert [(event["stage"], event["event"]) for event in events] == [("lock", "start"), ("lock", "note")]
    assert f"is in use by process {os.getpid()} on " in events[1]["message"]
    code, output, _ = finished(process)
    assert code == 0
    assert json.loads(output.splitlines()[0])["event"] == "done"


def test_a_link_and_its_target_are_one_output(llama, tmp_path, quick):
    (tmp_path / "elsewhere/out").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere/out")
    build(str(llama), tmp_path / "link", quick(verify="off"))
    assert load_bundle(tmp_path / "elsewhere/out")
    assert (tmp_path / "link").is_symlink()
    assert left_in(tmp_path) + left_in(tmp_path / "elsewhere") == []


def replace(directory, work, other):
    """Put another bundle in the place of one, as a build with --force does."""
    import shutil

    shutil.copytree(other, work)
    publish(work, directory, force=True)


@pytest.fixture
def two_bundles(llama, other_llama, tmp_path, quick):
    return [
        build(str(source), tmp_path / name, quick(verify="off")).directory
        for source, name in ((llama, "out"), (other_llama, "other"))
    ]


def test_what_is_read_while_a_bundle_is_replaced_is_read_again(two_bundles, tmp_path, monkeypatch):
    from edgellm_core.bundle import loading

    out, other = two_bundles
    sha256_of, calls = loading.sha256_of, []

    def replaced_meanwhile(path):
        if not calls:
            replace(out, tmp_path / "work", other)
        calls.append(path)
        return sha256_of(path)

    monkeypatch.setattr(loading, "sha256_of", replaced_meanwhile)
    bundle = load_bundle(out)
    assert bundle.manifest == load_bundle(other).manifest


def test_a_damaged_file_is_still_named(two_bundles):
    out, _ = two_bundles
    data = out / "llm/model.onnx.data"
    data.write_bytes(b"x" + data.read_bytes()[1:])
    with pytest.raises(DamagedBundleError, match=r"'llm/model\.onnx\.data' of the bundle"):
        load_bundle(out)


def test_a_bundle_that_is_replaced_while_it_is_used_is_refused(two_bundles, tmp_path):
    from edgellm_core.runtime.text import TextGenerator

    out, other = two_bundles
    bundle = load_bundle(out)
    replace(out, tmp_path / "work", other)
    with pytest.raises(BundleReplacedError, match="was replaced while it was read"):
        TextGenerator(bundle)
    assert TextGenerator(load_bundle(out))  # the remedy
    with pytest.raises(BundleReplacedError, match="was replaced while it was read"), bundle.reading():
        raise ValueError


def test_engine_and_verify_wait_for_a_build(two_bundles):
    out, _ = two_bundles
    with locked(out):
        process = subprocess.Popen(
            [EDGELLM, "engine", out, "--no-wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert "is in use by process" in finished(process)[2]
        process = subprocess.Popen([EDGELLM, "verify", out], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while "is in use" not in process.stderr.readline():
            time.sleep(0.01)
        assert load_bundle(out).manifest.verification.status == "skipped"
    assert finished(process)[0] == 0
    assert load_bundle(out).manifest.verification.status == "passed"
