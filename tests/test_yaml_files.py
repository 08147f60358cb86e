"""YAML files whose errors name file and line."""

from __future__ import annotations

import re

import pytest

from edgellm_core.yaml_files import YamlFileError, read_yaml

TEXT = """\
a: 1
b:
  - x
  - c: 2

    d:
    - 3
"""


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "file.yaml"
        path.write_text(text)
        return read_yaml(path, "file", expected="a mapping", error=YamlFileError)

    return read


def test_scalars_are_strings(read):
    assert read(TEXT).data == {"a": "1", "b": ["x", {"c": "2", "d": ["3"]}]}


@pytest.mark.parametrize(
    ("location", "line"),
    [
        ((), 1), (("a",), 1), (("b",), 2), (("b", 0), 3), (("b", 1), 4), (("b", 1, "d"), 6), (("b", 1, "d", 0), 7),
        (("b", 1, "e", 0), 4), (("b", 5), 2), (("a", "c"), 1),
    ],
)  # fmt: skip
def test_lines_of_parts(read, location, line):
    assert read(TEXT).line(location) == line


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- a\n", "line 1: must be a mapping."),
        ("", "line 1: must be a mapping."),
        ("a:\n  b: 1\n  b: 2\n", "line 3: 'b' is there twice. Keep one of the two."),
        ("a:\n- b: 1\n  c: 1\n  b: 2\n", "line 4: 'b' is there twice. Keep one of the two."),
        ("a: 'x\n", "line 2: is not valid YAML: "),
        ("a: \x07\n", "line 1: is not valid YAML: special characters are not allowed."),
    ],
)
def test_problems(read, text, problem):
    with pytest.raises(YamlFileError, match=re.escape(f"file, {problem}")):
        read(text)


def bomb(levels):
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels))]
    return "\n".join(lines)


@pytest.mark.parametrize("levels", [6, 30])
def test_aliases_of_aliases_are_refused_at_once(read, levels):
    with pytest.raises(YamlFileError, match="file: has more than 100,000 entries with aliases written out"):
        read(bomb(levels))


def test_an_alias_is_read(read):
    assert read("a: &x [1, 2]\nb: *x\nc: *x\n").data["c"] == ["1", "2"]


@pytest.mark.parametrize("text", ["a: &x [*x]\n", "a: &x {b: *x}\n", "a: {b: [1]}\nc: &y [[*y]]\n"])
def test_an_alias_to_its_own_anchor_is_refused(read, text):
    with pytest.raises(YamlFileError, match="an alias leads back to its own anchor"):
        read(text)


@pytest.mark.parametrize("depth", [65, 500, 100_000])
def test_deep_yaml_is_refused(read, depth):
    with pytest.raises(YamlFileError, match="is nested in more than 64 levels of nesting"):
        read("a: " + "[" * depth + "]" * depth)


def test_a_large_yaml_file_is_refused(read):
    with pytest.raises(YamlFileError, match="file: can't be read: a YAML file may have at most 1 MiB"):
        read("a: 1\n" * 300_000)
