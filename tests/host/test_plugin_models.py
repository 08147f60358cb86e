"""Known models of plugins: models.yaml in their folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgellm_core.checkpoint.location import locate
from edgellm_core.cli import edgellm
from edgellm_core.errors import UnknownNameError
from edgellm_core.host import PluginHost
from edgellm_core.registry import ModelRegistry
from edgellm_core.testing.plugin_files import family_source, write_plugin

NOVA = Path(__file__).parents[1] / "packs" / "edgellm-nova" / "src"
ENTRY = "model-{0}: {{family: {0}, hub: some/{0}, precisions: {{}}}}\n"


def registry_of(folder, **models):
    for name, text in models.items():
        write_plugin(folder / name, "__init__", family_source(name, [name]))
        (folder / name / "models.yaml").write_text(text)
    return ModelRegistry.of_plugins(PluginHost.load([folder], {}).records)


def test_a_pack_brings_its_models():
    registry = ModelRegistry.of_plugins(PluginHost.load([NOVA], {}).records)
    assert registry.names() == [*ModelRegistry.load().names(), "nova-1b"]
    assert locate("nova-1b", registry=registry).id == "nova-models/nova-1b"
    assert registry.skipped == ()


def test_commands_know_them():
    runner = CliRunner()
    listed = json.loads(runner.invoke(edgellm, ["models", "list", "--json", "--plugin-path", str(NOVA)]).output)
    assert listed[-1]["name"] == "nova-1b"
    shown = runner.invoke(edgellm, ["models", "show", "nova-1b", "--plugin-path", str(NOVA)])
    assert "nova-models/nova-1b" in shown.output


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("model: {family: bad, hub: no-slash, precisions: {}}\n", "hub"),
        ("- a list\n", "must be a mapping"),
        (ENTRY.format("qwen3"), "must be of a family of this plugin (bad); got 'qwen3'"),
        ("smollm2-135m-instruct: {family: bad, hub: a/b, precisions: {}}\n", "is known already"),
    ],
    ids=["entry", "form", "family", "name"],
)
def test_a_wrong_file_is_named_and_left_out_and_the_others_stay(text, problem, tmp_path):
    registry = registry_of(tmp_path, bad=text, good=ENTRY.format("good"))
    assert registry.names() == [*ModelRegistry.load().names(), "model-good"]
    (sentence,) = registry.skipped
    assert sentence.startswith("The models of plugin 'bad' are left out: ")
    assert problem in sentence
    with pytest.raises(UnknownNameError, match="The models of plugin 'bad' are left out"):
        registry.get("model-bad")


def test_level_4_of_the_kit_builds_them(tmp_path):
    script = (
        "import sys; from pathlib import Path; from edgellm_core.host import PluginHost;"
        "from edgellm_core.testing.checkpoints import write_family_checkpoint as write;"
        "write(Path(sys.argv[2]), PluginHost.load([Path(sys.argv[1])]).select({}, forced='nova').family)"
    )
    subprocess.run([sys.executable, "-c", script, NOVA, tmp_path / "tiny"], check=True)
    command = [sys.executable, "-c", "from edgellm_core.cli import main; main()", "plugins", "test", "nova"]
    options = ["--level", "4", "-k", "L4", "--plugin-path", NOVA, "--weights", f"nova-1b={tmp_path / 'tiny'}"]
    done = subprocess.run([*command, *options, "--record", tmp_path], capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout
    assert json.loads((tmp_path / "nova-1b-fp32.json").read_text())["family"]["plugin"] == "edgellm_nova"
