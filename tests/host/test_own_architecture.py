"""A pack that brings its own modeling code: registered once a process, wherever a config is loaded first."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgellm_core.checkpoint.family_code import register_model
from edgellm_core.contract import ModelFamily
from edgellm_core.errors import PluginError
from edgellm_core.host import PluginHost
from edgellm_core.testing.plugin_files import family_source, write_family, write_plugin

NOVA = Path(__file__).parents[1] / "packs" / "edgellm-nova" / "src"
RUN_EDGELLM = "from edgellm_core.cli import main; main()"
WRITE_TINY = """
import sys
from pathlib import Path
from edgellm_core.host import PluginHost
from edgellm_core.testing.checkpoints import write_family_checkpoint
host = PluginHost.load([Path(sys.argv[1])])
write_family_checkpoint(Path(sys.argv[2]), host.select({}, forced="nova").family)
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Return a checkpoint of the pack's tiny model, written by a process of its own."""
    folder = tmp_path_factory.mktemp("nova") / "tiny"
    subprocess.run([sys.executable, "-c", WRITE_TINY, NOVA, folder], check=True)
    return folder


def edgellm(*arguments):
    command = [sys.executable, "-c", RUN_EDGELLM, *map(str, arguments), "--plugin-path", str(NOVA)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_command_knows_the_architecture_in_a_process_of_its_own(tiny, tmp_path):
    found = json.loads(edgellm("detect", tiny, "--deep", "--json"))
    assert found["family"]["name"] == "nova"
    assert found["deep"]["model"] == "NovaForCausalLM"
    assert found["deep"]["refusal"] is None
    for out in ("first", "from-the-cached-trace"):
        edgellm("build", tiny, "-o", tmp_path / out, "--precision", "fp16", "--engine", "none")
        manifest = json.loads((tmp_path / out / "bundle.json").read_text())
        assert "NovaForCausalLM" in manifest["verification"]["reference"]
        assert manifest["verification"]["status"] == "passed"
    edgellm("verify", tmp_path / "first", "--source", tiny)


def test_a_key_that_its_modeling_code_reads_is_no_unread_key(tiny):
    from edgellm_core.tracing.configuration import is_read, load_config

    family = PluginHost.load([NOVA]).select({}, forced="nova").family
    config = load_config(tiny, json.loads((tiny / "config.json").read_text()), family)
    assert is_read("squash", type(config))
    assert not is_read("squish", type(config))


def test_registration_happens_once_and_a_failure_stays_one():
    calls = []

    class Fine(ModelFamily):
        name = "fine"

        def register_model(self):
            calls.append("fine")

    class Failing(ModelFamily):
        name = "failing"

        def register_model(self):
            calls.append("failing")
            raise ValueError("halfway")

    register_model(Fine())
    register_model(Fine())
    family = Failing()
    for _attempt in range(2):
        with pytest.raises(ValueError, match="halfway"):
            register_model(family)
    assert calls == ["fine", "failing"]


def test_a_registration_that_raises_names_plugin_method_and_cause(tmp_path):
    body = "    def register_model(self):\n        raise KeyError('attention')\n"
    write_plugin(tmp_path, "odd", family_source("odd", ["odd"]).replace("\n@hookimpl", body + "\n@hookimpl"))
    family = PluginHost.load([tmp_path], {}).select({"model_type": "odd"}).family
    expected = r"Plugin 'odd' failed in register_model\(\) of family 'odd': KeyError: 'attention'"
    with pytest.raises(PluginError, match=expected):
        register_model(family)


def test_an_own_family_is_no_remedy_for_itself(tmp_path):
    from edgellm_core.tracing.configuration import load_config
    from edgellm_core.tracing.errors import UnsupportedArchitectureError

    write_family(tmp_path, "unheard", "unheard", ["unheard"])
    host = PluginHost.load([tmp_path], {})
    family = host.select({"model_type": "unheard"}).family
    with pytest.raises(UnsupportedArchitectureError, match="does not know it") as refused:
        load_config(tmp_path, {"model_type": "unheard"}, family, host.nearest)
    assert "'unheard';" not in str(refused.value)
    assert "register_model" in str(refused.value)
