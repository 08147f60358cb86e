"""Publication: nobody else's files are touched, and a kill at any moment leaves the old or the new bundle."""

from __future__ import annotations

import errno
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from edgellm_core.bundle import (
    FamilyRecord,
    Manifest,
    SourceRecord,
    VerificationRecord,
    check_output,
    file_records,
    load_bundle,
    publish,
    publishing,
    write_manifest,
)
from edgellm_core.bundle.errors import (
    BundleExistsError,
    DanglingOutputError,
    ForeignOutputError,
    MountPointError,
    NotABundleError,
    OutputNotWritableError,
)

if TYPE_CHECKING:
    from pathlib import Path


def make_bundle(directory: Path, precision: str = "fp16") -> Path:
    (directory / "llm").mkdir(parents=True)
    (directory / "llm/model.onnx").write_text(precision)
    manifest = Manifest(
        source=SourceRecord(kind="directory", id="tiny", revision=None, digest=""),
        family=FamilyRecord(name="llama", plugin="llama", version="1"),
        target="onnx",
        precision=precision,
        versions={},
        stages=[],
        verification=VerificationRecord(status="skipped"),
        surgery=[],
        files=file_records(directory),
    )
    write_manifest(directory, manifest)
    return directory


def snapshot(directory: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }


def test_publish_moves_the_bundle(tmp_path):
    work, out = make_bundle(tmp_path / ".work"), tmp_path / "deep/er/out"
    check_output(out, force=False)
    assert not (tmp_path / "deep").exists()
    publish(work, out, force=False)
    assert load_bundle(out).manifest.precision == "fp16"
    assert not work.exists()
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_existing_bundle_needs_force(tmp_path):
    out, work = make_bundle(tmp_path / "out", "fp32"), make_bundle(tmp_path / ".work")
    for refuse in (lambda: check_output(out, force=False), lambda: publish(work, out, force=False)):
        with pytest.raises(BundleExistsError, match=r"holds a bundle already\. Replace it with --force"):
            refuse()
    assert load_bundle(out).manifest.precision == "fp32"
    check_output(out, force=True)
    publish(work, out, force=True)
    assert load_bundle(out).manifest.precision == "fp16"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL])
def test_replacing_works_where_paths_can_not_be_swapped(tmp_path, monkeypatch, number):
    def refuse(first, second):
        raise OSError(number, "no such call")

    monkeypatch.setattr(publishing, "_exchange", refuse)
    out, work = make_bundle(tmp_path / "out", "fp32"), make_bundle(tmp_path / ".work")
    publish(work, out, force=True)
    assert load_bundle(out).manifest.precision == "fp16"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_bundle_of_another_schema_may_be_replaced(tmp_path):
    out, work = make_bundle(tmp_path / "out"), make_bundle(tmp_path / ".work")
    path = out / "bundle.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    publish(work, out, force=True)
    assert load_bundle(out)


def foreign_file(out: Path) -> None:
    out.write_text("mine")


def foreign_folder(out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("mine")


def empty_folder(out: Path) -> None:
    out.mkdir()


def broken_link(out: Path) -> None:
    out.symlink_to(out.parent / "nowhere")


def looping_link(out: Path) -> None:
    out.symlink_to(out)


def other_manifest(out: Path) -> None:
    out.mkdir()
    (out / "bundle.json").write_text('{"schema_version": 1, "name": "a web bundle"}')


def unreadable_manifest(out: Path) -> None:
    out.mkdir()
    (out / "bundle.json").write_text("{")


@pytest.mark.parametrize("occupy", [foreign_file, foreign_folder, other_manifest, unreadable_manifest, looping_link])
@pytest.mark.parametrize("force", [True, False])
def test_what_is_not_ours_is_never_touched(tmp_path, occupy, force):
    out, work = tmp_path / "place/out", make_bundle(tmp_path / ".work")
    out.parent.mkdir()
    occupy(out)
    before = snapshot(tmp_path)
    for refuse in (lambda: check_output(out, force=force), lambda: publish(work, out, force=force)):
        with pytest.raises(ForeignOutputError, match=r"is not an edgellm bundle \(.*\), so it is left alone"):
            refuse()
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("force", [True, False])
def test_a_link_to_nothing_is_named_and_left_alone(tmp_path, force):
    out, work = tmp_path / "out", make_bundle(tmp_path / ".work")
    broken_link(out)
    for refuse in (lambda: check_output(out, force=force), lambda: publish(work, out, force=force)):
        with pytest.raises(DanglingOutputError, match=r"is a link to '.*/nowhere', where nothing is, so it is left al"):
            refuse()
    (tmp_path / "nowhere").mkdir()  # one of the remedies
    publish(work, out, force=force)
    assert out.is_symlink()
    assert load_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize("force", [True, False])
def test_an_empty_folder_becomes_the_bundle(tmp_path, force):
    empty_folder(tmp_path / "out")
    check_output(tmp_path / "out", force=force)
    publish(make_bundle(tmp_path / ".work"), tmp_path / "out", force=force)
    assert load_bundle(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_mount_point_is_refused_at_once(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(type(tmp_path), "is_mount", lambda path: path.name == "out")  # mounting needs root
    with pytest.raises(MountPointError, match=r"a file system is mounted there\. Choose a folder in it: -o '.*bundle"):
        check_output(tmp_path / "out", force=False)
    check_output(tmp_path / "out/bundle", force=False)


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize(
    ("parent", "reason"), [("file", "Not a directory"), ("/proc/self", "No such file|denied|cross-device")]
)
def test_parent_that_can_not_be_written_is_one_sentence(tmp_path, parent, reason, force):
    (tmp_path / "file").touch()
    out, work = tmp_path / parent / "out", make_bundle(tmp_path / ".work")
    for refuse in (lambda: check_output(out, force=force), lambda: publish(work, out, force=force)):
        with pytest.raises(OutputNotWritableError, match=rf"Can't write the bundle to .*: .*({reason})"):
            refuse()
    assert load_bundle(work)


def test_work_without_manifest_is_refused(tmp_path):
    (tmp_path / "work").mkdir()
    with pytest.raises(NotABundleError, match=r"it has no bundle\.json"):
        publish(tmp_path / "work", tmp_path / "out", force=False)
    assert not (tmp_path / "out").exists()


def test_linked_output_replaces_what_the_link_points_to(tmp_path):
    make_bundle(tmp_path / "real", "fp32")
    (tmp_path / "out").symlink_to("real")
    publish(make_bundle(tmp_path / ".work"), tmp_path / "out", force=True)
    assert (tmp_path / "out").is_symlink()
    assert load_bundle(tmp_path / "real").manifest.precision == "fp16"


KILL_AT_EVERY_STEP = """
import errno, os, shutil, sys
from pathlib import Path
from edgellm_core.bundle import load_bundle, publish, publishing

root, swaps, replace = Path(sys.argv[1]), sys.argv[2] == "swaps", sys.argv[3] == "replace"
STEPS = {"open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "shutil.rmtree", "ctypes.dlopen"}

def refuse(first, second):
    raise OSError(errno.ENOSYS, "")

def run_until(limit, place):
    seen = 0
    def die(event, arguments):
        nonlocal seen
        if event in STEPS:
            seen += 1
            if seen > limit:
                os._exit(9)
    if not swaps:
        publishing._exchange = refuse
    sys.addaudithook(die)
    publish(place / "work", place / "out", force=True)
    os._exit(0)

states, status, limit = [], 9, 0
while status:
    place = root / str(limit)
    shutil.copytree(root / "new", place / "work")
    if replace:
        shutil.copytree(root / "old", place / "out")
    child = os.fork()
    if child == 0:
        run_until(limit, place)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9), status
    if (place / "out").exists():
        state = load_bundle(place / "out").manifest.precision
    else:
        kept = publishing.aside(place / "out")
        state = "aside " + load_bundle(kept).manifest.precision if kept.exists() else "absent"
    if state not in states:
        states.append(state)
    if state != "fp16":
        # A second attempt gets through whatever the first one left.
        if not (place / "work").exists():
            shutil.copytree(root / "new", place / "work")
        publish(place / "work", place / "out", force=True)
        assert load_bundle(place / "out").manifest.precision == "fp16"
        assert [path.name for path in place.iterdir()] == ["out"]
    limit += 1
print(limit, *states, sep=", ")
"""


@pytest.mark.parametrize(("swaps", "replace", "states"), [
    ("swaps", "replace", "fp32, fp16"),
    ("no-swaps", "replace", "fp32, aside fp32, fp16"),
    ("swaps", "fresh", "absent, fp16"),
])  # fmt: skip
def test_kill_at_every_step_leaves_the_old_or_the_new_bundle(tmp_path, swaps, replace, states):
    make_bundle(tmp_path / "old", "fp32")
    make_bundle(tmp_path / "new", "fp16")
    command = [sys.executable, "-c", KILL_AT_EVERY_STEP, str(tmp_path), swaps, replace]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    steps, _, found = done.stdout.strip().partition(", ")
    assert found == states
    assert int(steps) > 5


def test_interrupted_replacement_is_explained_on_loading(tmp_path):
    make_bundle(publishing.aside(tmp_path / "out"))
    with pytest.raises(NotABundleError, match=r"a replacement was interrupted, and the old bundle lies in '.*-old'"):
        load_bundle(tmp_path / "out")
