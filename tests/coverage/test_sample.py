"""The sample of a commit is fixed by the commit, and commits take turns."""

from __future__ import annotations

import importlib.metadata
import subprocess

import pytest

from tests.coverage.sample import choose_sample, read_revision

NAMES = [f"type{number}" for number in range(100)]


@pytest.fixture
def git(tmp_path):
    """Return a function that runs git in a new clone and returns what it prints."""

    def run(*arguments):
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    run("init", "--quiet")
    run("commit", "--quiet", "--allow-empty", "--message", "first")
    return run


def test_a_revision_always_gives_the_same_sample_of_that_size():
    assert choose_sample(NAMES, 6, "a") == choose_sample(NAMES[::-1], 6, "a")
    assert len(set(choose_sample(NAMES, 6, "a"))) == 6


def test_every_name_has_its_turn_as_commits_go_by():
    seen = {name for revision in range(200) for name in choose_sample(NAMES, 6, str(revision))}
    assert seen == set(NAMES)


def test_the_revision_is_the_commit(git, tmp_path):
    first = read_revision(tmp_path)
    assert first == git("rev-parse", "HEAD")
    git("commit", "--quiet", "--allow-empty", "--message", "second")
    assert read_revision(tmp_path) == git("rev-parse", "HEAD") != first


def test_outside_a_clone_the_revision_is_the_version(tmp_path):
    assert read_revision(tmp_path) == importlib.metadata.version("edgellm")


def test_a_folder_of_another_clone_is_none(git, tmp_path):
    (tmp_path / "unpacked").mkdir()
    assert read_revision(tmp_path / "unpacked") == importlib.metadata.version("edgellm")
