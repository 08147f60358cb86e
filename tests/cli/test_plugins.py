"""``edgellm plugins``."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from edgellm_core.cli import edgellm
from edgellm_core.host.errors import PluginPathError


@pytest.fixture
def invoke(monkeypatch):
    for name in ("EDGELLM_PLUGINS", "EDGELLM_PLUGIN_PATH", "EDGELLM_TRACE"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments):
        return CliRunner().invoke(edgellm, ["plugins", *map(str, arguments)], catch_exceptions=True)

    return run


def test_list_shows_what_each_plugin_claims(invoke):
    result = invoke("list")
    assert result.exit_code == 0
    header, generic, *others = result.output.splitlines()
    [llama] = [line for line in others if line.startswith("llama ")]
    assert header.split() == ["name", "origin", "version", "families", "claims", "status"]
    assert generic.split()[:2] == ["generic", "core"]
    assert llama.split() == ["llama", "in-tree", "0.1.0", "llama", "model_type", "llama", "active"]


def test_list_says_below_the_table_what_is_wrong(invoke, tmp_path):
    (tmp_path / "bad.py").write_text("import nothing_of_that_name\n")
    (tmp_path / "mine.py").write_text(
        "from edgellm_core.contract import ModelFamily\nfrom edgellm_core.hookspecs import hookimpl\n"
        "class Mine(ModelFamily):\n    name = 'mine'\n    model_types = ('llama',)\n"
        "@hookimpl\ndef edgellm_register_families():\n    return [Mine]\n"
    )
    lines = invoke("list", "--plugin-path", tmp_path).output.splitlines()
    assert (
        "bad (path): Plugin 'bad' can't be imported: ModuleNotFoundError: No module named 'nothing_of_that_name'"
    ) in lines
    assert "llama (in-tree): model_type 'llama' is taken by plugin 'mine' (path)" in lines
    assert "mine (path): takes model_type 'llama' from plugin 'llama' (in-tree)" in lines


def test_list_as_json(invoke):
    records = {record["name"]: record for record in json.loads(invoke("list", "--json").output)}
    assert {"generic", "llama", "qwen2", "qwen3"} <= set(records)
    assert set(records["llama"]) == {
        "name", "origin", "version", "package", "location", "families", "claims", "status", "error", "notes",
    }  # fmt: skip
    assert records["llama"]["claims"][0] == {"key": "model_type", "value": "llama"}


def test_a_path_that_is_not_there_is_an_error(invoke, tmp_path):
    result = invoke("list", "--plugin-path", tmp_path / "missing")
    assert isinstance(result.exception, PluginPathError)
