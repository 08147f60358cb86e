from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from hub_server import COMMIT, serve

OPEN = """
import json, sys
from edgellm_core.checkpoint.source import open_checkpoint
from edgellm_core.errors import EdgellmError
from edgellm_core.events import Reporter
from edgellm_core.registry import ModelRegistry, RegistryEntry

entry = RegistryEntry(family="llama", hub="org/tiny", revision="v1", package="edgellm-no-such-package", precisions={})
events, result = [], {}
try:
    checkpoint = open_checkpoint(
        sys.argv[1], registry=ModelRegistry({"tiny": entry}), revision=(sys.argv[2:] or [None])[0],
        report=Reporter("checkpoint", events.append), trust_remote_code="trust" in sys.argv[3:],
    )
except EdgellmError as error:
    result = {"error": str(error), "class": type(error).__name__}
else:
    result = {
        "source": [checkpoint.source.kind, checkpoint.source.id, checkpoint.source.revision],
        "directory": str(checkpoint.directory), "tensors": len(checkpoint.tensors),
        "files": sorted(path.name for path in checkpoint.directory.iterdir()),
    }
print(json.dumps({**result, "notes": [event.message for event in events if event.event == "note"]}))
"""


@pytest.fixture
def repositories(tmp_path, tiny_single, tiny_sharded):
    """Repositories; the good ones also hold files that must not be fetched."""
    for name, origin in (("tiny", tiny_single), ("sharded", tiny_sharded)):
        directory = tmp_path / "repositories" / name
        shutil.copytree(origin, directory)
        (directory / "pytorch_model.bin").write_bytes(b"pickle")
        (directory / "README.md").write_text("hello")
        (directory / "modeling_tiny.py").write_text("raise SystemExit")
        (directory / "consolidated.safetensors").write_bytes(b"another copy")
        (directory / "onnx").mkdir()
        (directory / "onnx" / "config.json").write_text("{}")
    pickle = tmp_path / "repositories" / "pickle"
    shutil.copytree(tiny_single, pickle)
    (pickle / "model.safetensors").rename(pickle / "pytorch_model.bin")
    holey = tmp_path / "repositories" / "holey"
    shutil.copytree(tiny_sharded, holey)
    min(holey.glob("model-*.safetensors")).unlink()
    unlisted = tmp_path / "repositories" / "unlisted"
    shutil.copytree(tiny_sharded, unlisted)
    (unlisted / "model.safetensors.index.json").unlink()
    (tmp_path / "repositories" / "empty").mkdir()
    (tmp_path / "repositories" / "empty" / "README.md").write_text("hello")
    return {f"org/{path.name}": path for path in (tmp_path / "repositories").iterdir()}


@pytest.fixture
def hub(repositories):
    with serve({**repositories, "org/gated": repositories["org/tiny"]}, gated=["org/gated"]) as server:
        yield server


@pytest.fixture
def environment(tmp_path):
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return {**kept, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}


def open_in_process(arguments, environment, url):
    done = subprocess.run(
        [sys.executable, "-c", OPEN, *arguments],
        env={**environment, "HF_ENDPOINT": url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["tiny", "sharded"])
def test_only_the_files_of_a_build_are_downloaded_and_pinned(hub, environment, name):
    result = open_in_process([f"org/{name}"], environment, hub.url)
    assert result["source"] == ["hub", f"org/{name}", COMMIT]
    assert result["tensors"] == 21
    unwanted = {"pytorch_model.bin", "README.md", "consolidated.safetensors", "onnx"}
    assert not unwanted & set(result["files"])
    assert {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"} <= set(result["files"])
    assert not any("pytorch_model.bin" in path for _method, path in hub.requests)
    assert "Downloading 0.00 GB" in result["notes"][0]


def test_code_is_downloaded_where_it_is_trusted(hub, environment):
    untrusted = open_in_process(["org/tiny", "main"], environment, hub.url)
    assert "modeling_tiny.py" not in untrusted["files"]
    trusted = open_in_process(["org/tiny", "main", "trust"], environment, hub.url)
    assert set(trusted["files"]) == {*untrusted["files"], "modeling_tiny.py"}


def test_second_open_downloads_nothing_and_the_third_needs_no_network(hub, environment):
    first = open_in_process(["org/sharded"], environment, hub.url)
    hub.bytes_sent.clear()
    assert open_in_process(["org/sharded"], environment, hub.url) == {**first, "notes": []}
    assert hub.bytes_sent == {}
    offline = open_in_process(["org/sharded"], environment, "http://127.0.0.1:9")
    assert offline == {**first, "notes": offline["notes"]}
    assert "does not answer" in offline["notes"][0]
    assert "Using the copy that was downloaded before." in offline["notes"][0]


def test_registry_entry_without_its_package_comes_from_the_hub(hub, environment):
    result = open_in_process(["tiny"], environment, hub.url)
    assert result["source"] == ["hub", "org/tiny", COMMIT]
    assert ("GET", "/api/models/org/tiny/revision/v1") in hub.requests


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["org/none"], "there is no such public repository. Check the spelling"),
        (["org/gated"], "the repository is gated. Accept its terms at https://huggingface.co/org/gated"),
        (["org/tiny", "v9"], "it has no revision 'v9'. Give a branch, a tag or a full commit hash"),
        (["org/pickle"], "'org/pickle' has its weights only as pickle files (pytorch_model.bin)"),
        (["org/holey"], "names 7 shards, and 1 of them are missing: model-00001-of-00007.safetensors"),
        (["org/empty"], "it has no config.json. Give the repository of a transformers model"),
    ],
)
def test_what_is_wrong_is_said_before_weights_are_downloaded(hub, environment, arguments, message):
    result = open_in_process(arguments, environment, hub.url)
    assert message in result["error"]
    assert not any(name.startswith("model-") or name == "model.safetensors" for name in hub.bytes_sent)


def test_unreachable_hub_names_the_other_way(environment):
    result = open_in_process(["tiny"], environment, "http://127.0.0.1:9")
    assert result["class"] == "HubError"
    assert "Can't get 'org/tiny' from the hub: the hub does not answer" in result["error"]
    assert result["error"].endswith("pip install --no-deps edgellm-no-such-package")


def test_cache_of_the_hub_that_can_not_be_written(hub, environment, tmp_path):
    (tmp_path / "hf").write_text("a file where the cache should be")
    result = open_in_process(["org/tiny"], {**environment, "HF_HUB_VERBOSITY": "error"}, hub.url)
    assert "the download can't be written" in result["error"]
    assert result["error"].endswith("Set HF_HOME to a writable directory.")


def detect(arguments, environment, url):
    code = "from edgellm_core.cli import main; main()"
    command = [sys.executable, "-c", code, "detect", *arguments, "--json"]
    return subprocess.run(
        command,
        env={**environment, "HF_ENDPOINT": url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_detect_reads_headers_over_the_network_and_no_weights(hub, environment, repositories):
    done = detect(["org/sharded"], environment, hub.url)
    result = json.loads(done.stdout)
    assert done.stderr == ""
    assert result["source"] == {"kind": "hub", "id": "org/sharded", "revision": COMMIT}
    assert result["element_types"] == {"F32": result["parameters"]}
    assert result["bytes"] == 4 * result["parameters"]
    assert result["stages"][0]["stage"] == "download"
    local = sum(path.stat().st_size for path in repositories["org/sharded"].glob("model-*.safetensors"))
    assert result["stages"][0]["disk"] > local
    assert result["will_not_work"] == []


def test_numbered_files_need_no_index(hub, environment):
    found = json.loads(detect(["org/unlisted"], environment, hub.url).stdout)
    assert found == {**json.loads(detect(["org/sharded"], environment, hub.url).stdout), **found}
    assert found["parameters"] > 0
    result = open_in_process(["org/unlisted"], environment, hub.url)
    assert result["tensors"] == 21
    assert any("numbered files are read as one checkpoint" in note for note in result["notes"])


def test_detect_lists_pickle_weights_as_what_will_not_work(hub, environment):
    done = detect(["org/pickle"], environment, hub.url)
    result = json.loads(done.stdout)
    assert done.returncode == 0
    assert result["family"]["name"] == "llama"
    assert result["parameters"] is None
    assert "only as pickle files" in result["will_not_work"][0]
