"""Tests are shared out in whole files, the long files in shards; slow files first, and quick is decided by folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import QUICK, is_quick
from tests.scheduling import SHARDED, ShardScheduling

TESTS = Path(__file__).parent
CONFTEST = "from tests.conftest import pytest_collection_modifyitems, pytest_configure, pytest_xdist_make_scheduler\n"
SLOW = "import pytest\n\n@pytest.mark.slow\ndef test_it():\n    pass\n"


@pytest.mark.parametrize(
    ("nodeid", "scope"),
    [
        ("tests/test_docs.py::test_links_resolve[README.md]", "tests/test_docs.py"),
        ("tests/corpus/test_corpus.py::test_case[a_case]", "tests/corpus/test_corpus.py[a_case]"),
        ("tests/corpus/test_corpus.py::test_detect_agrees_with_build[a_case]", "tests/corpus/test_corpus.py[a_case]"),
        ("tests/matrix/test_tier_l0.py::test_entry[gpt_oss-tiny-fp32]", "tests/matrix/test_tier_l0.py[gpt_oss]"),
        ("tests/conformance/test_in_tree.py::test_family[phi-L0-x]", "tests/conformance/test_in_tree.py[phi]"),
        ("tests/conformance/test_in_tree.py::test_a_broken_pack", "tests/conformance/test_in_tree.py"),
    ],
)
def test_a_scope_is_a_file_or_a_shard_of_one(nodeid, scope):
    assert ShardScheduling.__new__(ShardScheduling)._split_scope(nodeid) == scope


def test_what_is_named_exists():
    assert all((TESTS.parent / file).is_file() for file in SHARDED)
    assert all((TESTS / folder).is_dir() for folder in QUICK)


def test_quick_is_what_lies_in_a_quick_folder():
    assert is_quick(TESTS / "weights" / "test_binder.py")
    assert not is_quick(TESTS / "corpus" / "test_corpus.py")
    assert not is_quick(Path("/elsewhere/weights/test_it.py"))


def test_files_with_slow_tests_are_the_first_to_run(tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_a.py").write_text("def test_it():\n    pass\n")
    (tmp_path / "test_b.py").write_text(SLOW)
    command = [sys.executable, "-m", "pytest", "-v", "-n", "1", "--dist", "loadfile", "-c", os.devnull, str(tmp_path)]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(TESTS.parent)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.index("PASSED test_b.py") < done.stdout.index("PASSED test_a.py")
