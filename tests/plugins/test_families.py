"""Every family that ships: its folder, its package, and a tiny config that exercises what is special about it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from edgellm_core.host import PluginHost
from edgellm_core.registry import ModelRegistry

PLUGINS = Path(__file__).parents[2] / "plugins"
FOLDERS = sorted(path.parent.name for path in PLUGINS.glob("*/__init__.py"))
ALLOWED_IMPORTS = ("edgellm_core.contract", "edgellm_core.hookspecs", "edgellm_core.surgery", "edgellm_core.tracing")


def family(name):
    return PluginHost.load(environ={}).select({}, forced=name).family


def model(config):
    """Return a random float32 model of a config, with values that matter in every parameter."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from edgellm_core.testing.checkpoints import randomize

    fields = dict(config)
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields)).eval()
    randomize(made)
    return made


def logits(made):
    import torch

    with torch.no_grad():
        return made(torch.arange(3, 27)[None]).logits


def test_each_folder_is_an_active_plugin():
    records = {record.name: record for record in PluginHost.load(environ={}).records if record.origin == "in-tree"}
    assert sorted(records) == FOLDERS
    assert all(record.status == "active" for record in records.values())


def test_the_package_list_has_every_folder():
    pyproject = (PLUGINS.parent / "pyproject.toml").read_text()
    listed = [line.strip(' ",') for line in pyproject.splitlines() if line.strip().startswith('"edgellm_plugins.')]
    assert listed == [f"edgellm_plugins.{name}" for name in FOLDERS]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_plugin_imports_only_the_contract_and_itself(name):
    own = f"edgellm_plugins.{name}"
    for path in (PLUGINS / name).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [str(node.module)]
            ours = [module for module in modules if module.startswith("edgellm")]
            assert all(module.startswith((own, *ALLOWED_IMPORTS)) for module in ours), (path, ours)


@pytest.mark.parametrize("name", FOLDERS)
def test_the_readme_names_the_claims(name):
    readme = (PLUGINS / name / "README.md").read_text()
    assert all(f"`{claim}`" in readme for claim in (*family(name).model_types, *family(name).architectures))


@pytest.mark.parametrize("name", FOLDERS)
def test_the_matrix_has_tiers_of_known_models(name):
    matrix = yaml.safe_load((PLUGINS / name / "matrix.yaml").read_text())
    assert set(matrix) == {"l0", "l1"}
    assert all(entry.startswith("tiny-") for entry in matrix["l0"])
    own = [model for model in ModelRegistry.load().names() if ModelRegistry.load().get(model).family == name]
    assert all(entry.startswith(tuple(f"{model}-" for model in own)) for entry in matrix["l1"])


@pytest.mark.parametrize("name", FOLDERS)
def test_the_tiny_config_is_claimed_and_read_whole(name):
    from transformers import AutoConfig

    config = dict(family(name).tiny_config())
    assert PluginHost.load(environ={}).select(config).family.name == name
    loaded = AutoConfig.for_model(**config).to_dict()
    assert {key: loaded[key] for key in config if key != "rope_parameters"} == {
        key: value for key, value in config.items() if key != "rope_parameters"
    }
    assert config["rope_parameters"].items() <= loaded["rope_parameters"].items()
    assert 2 <= config["num_hidden_layers"] <= 4
    assert config["num_attention_heads"] > config["num_key_value_heads"] > 1


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
        ("qwen2", {"layer_types": ["full_attention"] * 4}),
        ("qwen2", {"layer_types": ["full_attention", "sliding_attention"] * 2}),
    ],
    ids=["llama: RoPE scaling", "qwen2: window", "qwen2: order of windows"],
)
def test_leaving_out_what_is_special_changes_the_logits(name, change):
    config = dict(family(name).tiny_config())
    original, changed = model(config), model({**config, **change})
    changed.load_state_dict(original.state_dict())
    expected = logits(original)
    assert expected.isfinite().all()
    assert float((logits(changed) - expected).abs().max() / expected.abs().max()) > 0.05


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama", ["self_attn.q_proj.bias", "self_attn.o_proj.bias", "mlp.down_proj.bias"]),
        ("qwen2", ["self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"]),
        ("qwen3", ["self_attn.q_norm.weight", "self_attn.k_norm.weight", "self_attn.q_proj.bias"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_tiny_config_has_the_special_parameters(name, parameters):
    names = {parameter for parameter, _value in model(family(name).tiny_config()).named_parameters()}
    assert {f"model.layers.0.{parameter}" for parameter in parameters} <= names


def test_qwen3_has_a_free_head_size_and_a_tied_head():
    config = family("qwen3").tiny_config()
    made = model(config)
    assert config["head_dim"] * config["num_attention_heads"] != config["hidden_size"]
    assert made.model.layers[0].self_attn.q_proj.out_features == config["head_dim"] * config["num_attention_heads"]
    assert made.lm_head.weight is made.model.embed_tokens.weight
