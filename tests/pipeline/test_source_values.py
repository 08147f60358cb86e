"""The values of weights decide whether an earlier result holds, and whether a build is of one checkpoint."""

from __future__ import annotations

import hashlib
import os
import shutil

import pytest
from click.testing import CliRunner

from edgellm_core.bundle import load_bundle
from edgellm_core.checkpoint.errors import SourceChangedError
from edgellm_core.checkpoint.source import Checkpoint
from edgellm_core.checkpoint.values import ValueDigests, source_with_values
from edgellm_core.cli import edgellm
from edgellm_core.pipeline.build import build
from edgellm_core.pipeline.errors import QualityLimitError
from edgellm_core.untrusted.errors import UnreadableFileError
from tests.pipeline.test_build import _open


def change_last_number(checkpoint):
    """Change the sign of the last weight in place; size and time of modification stay."""
    path = checkpoint / "model.safetensors"
    status = path.stat()
    with path.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        last = stream.read(1)[0]
        stream.seek(-1, os.SEEK_END)
        stream.write(bytes([last ^ 0x80]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_the_digest_of_a_source_covers_its_values(llama_copy):
    checkpoint = _open(llama_copy)
    before = source_with_values(checkpoint)
    assert source_with_values(_open(llama_copy)) == before
    change_last_number(llama_copy)
    assert _open(llama_copy).source == checkpoint.source
    assert source_with_values(checkpoint).digest != before.digest


def test_the_digest_is_that_of_all_bytes(llama):
    checkpoint = _open(llama)
    files = [hashlib.sha256(header.file.read_bytes()).hexdigest() for header in checkpoint.headers]
    with ValueDigests(checkpoint) as values:
        assert values.all() == hashlib.sha256("\n".join(files).encode()).hexdigest()


def test_a_file_that_went_away_is_named(llama_copy):
    checkpoint = _open(llama_copy)
    (llama_copy / "model.safetensors").unlink()
    with pytest.raises(UnreadableFileError, match=r"model\.safetensors"):
        source_with_values(checkpoint)


@pytest.mark.slow
def test_results_of_other_values_are_not_used_where_the_file_system_shows_no_difference(
    llama_copy, tmp_path, quick, monkeypatch
):
    tokens = {"quality_samples": 1, "quality_length": 16}
    monkeypatch.setattr(Checkpoint, "fingerprint", lambda self: "the same")
    with pytest.raises(QualityLimitError):
        build(str(llama_copy), tmp_path / "out", quick(precision="fp16", max_kl=0.0, **tokens))
    change_last_number(llama_copy)
    events = []
    bundle = build(str(llama_copy), tmp_path / "out", quick(precision="fp16", **tokens), listener=events.append)
    assert [event.stage for event in events if event.event == "cached"] == ["tokenizer", "trace", "twin"]
    assert bundle.manifest.source.digest == source_with_values(_open(llama_copy)).digest


STAGES = ("surgery", "bind", "verify", "answers")


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.usefixtures("nothing_left")
def test_a_checkpoint_that_changes_while_it_is_built_is_refused(llama_copy, tmp_path, quick, stage):
    def change(event):
        if event.stage == stage and event.event == "start":
            change_last_number(llama_copy)

    with pytest.raises(SourceChangedError, match="Wait until nothing writes there, and start again"):
        build(str(llama_copy), tmp_path / "out", quick(), listener=change)


@pytest.mark.slow
def test_a_graph_is_not_blamed_for_a_source_that_changed(llama_copy, tmp_path, quick):
    other = shutil.copytree(llama_copy, tmp_path / "other")
    data = bytearray((other / "model.safetensors").read_bytes())
    data[-4096:] = bytes(4096)

    def change(event):
        if event.stage == "verify" and event.event == "start":
            (llama_copy / "model.safetensors").write_bytes(data)

    with pytest.raises(SourceChangedError, match="is of no one checkpoint"):
        build(str(llama_copy), tmp_path / "out", quick(), listener=change)
    build(str(llama_copy), tmp_path / "out", quick())


@pytest.mark.slow
def test_verify_says_that_the_values_of_the_source_changed(llama_copy, tmp_path, quick):
    build(str(llama_copy), tmp_path / "out", quick(verify="off"))
    change_last_number(llama_copy)
    result = CliRunner().invoke(edgellm, ["verify", str(tmp_path / "out")])
    assert "was built from a checkpoint with digest" in str(result.exception)
    assert load_bundle(tmp_path / "out").manifest.verification.status == "skipped"
