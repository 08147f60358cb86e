"""Level 0: what can be said without building anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.testing.kit.check import check
from edgellm_core.testing.kit.skips import SkipReason, skip

if TYPE_CHECKING:
    from edgellm_core.testing.kit.case import Case

HEAVY: Final = ("torch", "transformers", "onnx", "onnx_graphsurgeon", "onnxruntime", "tensorrt", "tensorrt_rtx")
"""What loading a plugin must not import."""

CONVERSATION: Final = (
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "And of Italy?"},
)

LOAD_PLUGIN: Final = """
import json, pathlib, sys
from edgellm_core.host import PluginHost
name, heavy, *paths = sys.argv[1:]
family = PluginHost.load([pathlib.Path(path) for path in paths], skip_named=True).select({}, forced=name).family
family.tiny_config(), family.chat_template()
print(json.dumps([module for module in json.loads(heavy) if module in sys.modules]))
"""


@check(0)
def test_claims_are_held(edgellm_case: Case) -> None:
    """Every value of model_type and architectures that the family claims leads to it, and to no other."""
    family, host = edgellm_case.family, edgellm_case.plan.host
    assert family.model_types or family.architectures, f"family {family.name!r} claims nothing"
    configs: list[dict[str, Any]] = [{"model_type": value} for value in family.model_types]
    configs += [{"architectures": [value]} for value in family.architectures]
    for config in configs:
        selection = host.select(config)
        assert selection.family.name == family.name, f"{config}: {selection.reason}"


@check(0)
def test_versions_fit(edgellm_case: Case) -> None:
    """Contract version and transformers range of the family include what is installed."""
    from edgellm_core.contract import CONTRACT_VERSION
    from edgellm_core.host.checks import check_transformers

    assert edgellm_case.family.contract == CONTRACT_VERSION
    check_transformers(edgellm_case.tiny.selection.plugin.name, type(edgellm_case.family))


@check(0)
def test_imports_are_light(edgellm_case: Case) -> None:
    """Loading the plugin, its tiny config and its chat template imports no torch, transformers, onnx or tensorrt."""
    plan, plugin = edgellm_case.plan, edgellm_case.tiny.selection.plugin
    command = [sys.executable, "-c", LOAD_PLUGIN, edgellm_case.key.family, json.dumps(HEAVY), *plan.plugin_paths]
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "EDGELLM_PLUGINS": plugin.name},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


@check(0)
def test_chat_template_renders(edgellm_case: Case) -> None:
    """The family's chat template renders a conversation in Jinja's sandbox, with every message in it."""
    from edgellm_core.runtime.chat_template import render_chat

    template = edgellm_case.family.chat_template()
    if template is None:
        skip(SkipReason.NO_CHAT_TEMPLATE)
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    closed = render_chat(template, CONVERSATION, special_tokens=tokens, add_generation_prompt=False)
    assert all(message["content"] in closed for message in CONVERSATION)
    opened = render_chat(template, CONVERSATION, special_tokens=tokens, add_generation_prompt=True)
    assert opened.startswith(closed.rstrip()), "the generation prompt changes what comes before it"


@check(0)
def test_matrix_parses(edgellm_case: Case) -> None:
    """matrix.yaml is there and parses, and tier l0 has an entry of the tiny model."""
    from edgellm_core.matrix import read_matrix

    items = read_matrix(edgellm_case.family.folder() / "matrix.yaml", edgellm_case.plan.host.schemes())
    assert any(item.tier == "l0" and item.entry.tiny for item in items), "tier l0 has no entry of the model 'tiny'"


@check(0)
def test_readme_names_the_claims(edgellm_case: Case) -> None:
    """README.md of the family is there and names every value that it claims, as code."""
    family = edgellm_case.family
    path = family.folder() / "README.md"
    assert path.is_file(), f"family {family.name!r} has no README.md in {family.folder()}"
    text = path.read_text(encoding="utf-8")
    missing = [value for value in (*family.model_types, *family.architectures) if f"`{value}`" not in text]
    assert not missing, f"README.md does not name {missing}"


@check(0)
def test_tiny_config_is_the_familys(edgellm_case: Case) -> None:
    """The tiny config is JSON, has 2 to 4 layers, and its model_type and architectures are claimed by the family."""
    config = edgellm_case.tiny.config
    assert json.loads(json.dumps(config)) == config
    for key in ("model_type", "architectures"):
        assert config.get(key), f"tiny_config() has no {key}"
        selection = edgellm_case.plan.host.select({key: config[key]})
        assert selection.family.name == edgellm_case.key.family, selection.reason
    depth = next(
        (config[key] for key in ("num_hidden_layers", "n_layer", "num_layers", "n_layers") if key in config), 0
    )
    assert 2 <= depth <= 4, f"tiny_config() has {depth} layers"
