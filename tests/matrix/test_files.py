"""matrix.yaml: what is read, and errors with file and line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgellm_core.matrix import MatrixFileError, MatrixItem, parse, read_matrix

PLUGINS = Path(__file__).parents[2] / "plugins"


@pytest.fixture
def written(tmp_path):
    """Return a function that writes a matrix.yaml."""

    def write(text):
        path = tmp_path / "matrix.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_entries_are_texts_or_mappings_with_the_reason_of_a_failure(written):
    path = written(
        "# a comment\nl0:\n  - tiny-fp16-mxsl64\n  - entry: tiny-bf16\n    xfail: bfloat16 is too narrow\n"
        "l1: [a-b-fp8]\n"
        "known_failures:\n  L1-dynamic_shapes: one shape only\n"
    )
    assert read_matrix(path) == (
        MatrixItem(tier="l0", entry=parse("tiny-fp16-mxsl64"), xfail=None, line=3),
        MatrixItem(tier="l0", entry=parse("tiny-bf16"), xfail="bfloat16 is too narrow", line=4),
        MatrixItem(tier="l1", entry=parse("a-b-fp8"), xfail=None, line=6),
    )


def test_a_tier_may_be_missing_or_empty(written):
    assert read_matrix(written("l0: []\n")) == ()


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("l0:\n  - tiny-fp16\n  - tiny-fp16-mxls64\n", 3, "unknown token 'mxls64'. Did you mean 'mxsl64'?"),
        ("l0:\n  - tiny-fp16\n  - entry: tiny-fp61\n", 3, "l0 → 2 → entry: Entry 'tiny-fp61': MODEL must be"),
        ("l0:\n  - entry: tiny-fp16\n    xfial: why\n", 3, "l0 → 1 → xfial: Extra inputs are not permitted."),
        ("l0:\n  - entry: tiny-fp16\n    xfail: ''\n", 3, "l0 → 1 → xfail: String should have at least 1 character."),
        ("l0:\n  - xfail: why\n", 2, "l0 → 1 → entry: Field required."),
        ("l0:\n  - entry: [tiny-fp16]\n", 2, "l0 → 1 → entry: must be a text like tiny-fp16-mxsl64."),
        ("l0:\n  - [tiny-fp16]\n", 2, "l0 → 1: Input should be"),
        ("l0: []\n\nl2:\n  - tiny-fp16\n", 3, "l2: Extra inputs are not permitted."),
        ("l0: tiny-fp16\n", 1, "l0: Input should be a valid tuple."),
        ("l0: []\nl1: []\nl0: []\n", 3, "'l0' is there twice."),
        ("l0:\n  - tiny-fp16-mxsl64-mxbs1\n  - tiny-fp16-mxbs1-mxsl64\n", 3, "is in l0 already, in line 2."),
        ("- tiny-fp16\n", 1, "must be a mapping from the tiers l0 and l1 to entries."),
        ("", 1, "must be a mapping from the tiers l0 and l1 to entries."),
        ("l0:\n  - 'tiny\n", 3, "is not valid YAML: "),
        ("l0:\n  - tiny\x07\n", 2, "is not valid YAML: "),
        ("known_failures:\n  L1: ''\n", 2, "known_failures → L1: String should have at least 1 character."),
    ],
)
def test_an_error_names_file_and_line(written, text, line, problem):
    path = written(text)
    with pytest.raises(MatrixFileError, match=re.escape(f"{path}, line {line}: ") + ".*" + re.escape(problem)):
        read_matrix(path)


@pytest.mark.parametrize("content", [None, b"l0: \xff"], ids=["missing", "not UTF-8"])
def test_a_file_that_can_not_be_read_is_named(written, tmp_path, content):
    path = tmp_path / "matrix.yaml" if content is None else written(content)
    with pytest.raises(MatrixFileError, match=f"{re.escape(str(path))}: can't be read: "):
        read_matrix(path)


@pytest.mark.parametrize("path", sorted(PLUGINS.glob("*/matrix.yaml")), ids=lambda path: path.parent.name)
def test_the_files_that_ship_hold_canonical_entries(path):
    text = path.read_text()
    assert all(str(item.entry) in text for item in read_matrix(path))
