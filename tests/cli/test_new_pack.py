"""``edgellm plugins new``: names, files, and what is refused."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from edgellm_core.cli import edgellm
from edgellm_core.cli.errors import PackExistsError, PackNameError, PackNotWrittenError
from edgellm_core.cli.new_pack import (
    FAMILY_FILES,
    FILES,
    TEMPLATES,
    pack_names,
    pack_variables,
    plain_facts,
    render,
    write_pack,
)

PATHS = [
    ".github/workflows/test.yml",
    ".gitignore",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "src/edgellm_acme/README.md",
    "src/edgellm_acme/__init__.py",
    "src/edgellm_acme/chat_template.jinja",
    "src/edgellm_acme/family.py",
    "src/edgellm_acme/matrix.yaml",
    "tests/test_conformance.py",
    "tests/test_pack.py",
]


NAMES = pack_names("acme", ())


def rendered(names):
    return render(FILES, pack_variables(names, plain_facts(names)))


@pytest.fixture
def invoke(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("EDGELLM_PLUGINS", "EDGELLM_PLUGIN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return lambda *arguments: CliRunner().invoke(edgellm, ["plugins", "new", *map(str, arguments)])


def test_the_pack_has_exactly_these_files(invoke, tmp_path):
    result = invoke("acme")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[1:] == ["  cd edgellm-acme", '  pip install ".[test]"', "  pytest"]
    assert [path.name for path in tmp_path.iterdir()] == ["edgellm-acme"]
    written = sorted(path for path in (tmp_path / "edgellm-acme").rglob("*") if path.is_file())
    assert [path.relative_to(tmp_path / "edgellm-acme").as_posix() for path in written] == PATHS


def test_every_template_is_used():
    assert {path.name for path in TEMPLATES.iterdir()} == {*FILES.values(), *FAMILY_FILES.values()}


@pytest.mark.parametrize("path", PATHS)
def test_a_file_is_whole_and_valid(path):
    text = rendered(pack_names("acme", ()))[path]
    assert text.endswith("\n")
    assert "$" not in text.replace("${{ matrix.python }}", "")
    if path.endswith(".py"):
        ast.parse(text)
    elif path.endswith((".yml", ".yaml")):
        assert yaml.safe_load(text)


@pytest.mark.parametrize(
    ("name", "distribution", "package", "family", "cls"),
    [
        ("acme", "edgellm-acme", "edgellm_acme", "acme", "Acme"),
        ("edgellm-acme", "edgellm-acme", "edgellm_acme", "acme", "Acme"),
        ("Acme.Chat_2", "edgellm-acme-chat-2", "edgellm_acme_chat_2", "acme_chat_2", "AcmeChat2"),
        ("class", "edgellm-class", "edgellm_class", "class", "Class"),
    ],
)
def test_one_word_gives_all_names(name, distribution, package, family, cls):
    names = pack_names(name, ())
    assert (names.distribution, names.package, names.family, names.cls) == (distribution, package, family, cls)
    for path, text in rendered(names).items():
        if path.endswith(".py"):
            ast.parse(text)


@pytest.mark.parametrize(
    "name",
    ["", "-acme", "acme-", "1acme", "ac me", "ac/me", "../acme", "ac--me-", "äcme", "a..b", "edgellm-1x", "edgellm-"],
)
def test_a_name_that_pip_refuses_is_refused(name):
    with pytest.raises(PackNameError, match="must begin with a letter"):
        pack_names(name, ())


@pytest.mark.parametrize(
    ("name", "problem"), [("qwen3", "family that exists"), ("edgellm-qwen3", "that exists"), ("bloom", "transformers")]
)
def test_a_name_that_means_another_model_is_refused(invoke, name, problem):
    result = invoke(name)
    assert isinstance(result.exception, PackNameError)
    assert problem in str(result.exception)
    assert "my-" in str(result.exception)


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere")])
def test_what_exists_is_left_alone(invoke, tmp_path, make):
    make(tmp_path / "mine")
    with pytest.raises(PackExistsError, match="replaces nothing"):
        write_pack(NAMES, tmp_path / "mine", plain_facts(NAMES))
    assert isinstance(invoke("acme", "--directory", tmp_path / "mine").exception, PackExistsError)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_folder_that_is_no_folder_is_an_error_and_nothing_is_left(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PackNotWrittenError, match="Can't write the pack"):
        write_pack(NAMES, tmp_path / "file" / "pack", plain_facts(NAMES))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
