"""Every family that ships: its folder, its package, and a tiny config that exercises what is special about it."""

from __future__ import annotations

import ast
import functools
import json
from pathlib import Path

import pytest
import yaml

from edgellm_core.host import PluginHost
from edgellm_core.registry import ModelRegistry

PLUGINS = Path(__file__).parents[2] / "plugins"
FOLDERS = sorted(path.parent.name for path in PLUGINS.glob("*/__init__.py"))
ALLOWED_IMPORTS = (
    "edgellm_core.gguf_form",
    "edgellm_core.contract",
    "edgellm_core.hookspecs",
    "edgellm_core.surgery",
    "edgellm_core.tracing",
)


HOST = PluginHost.load(environ={})
REGISTRY = ModelRegistry.load()


def family(name):
    return HOST.select({}, forced=name).family


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


def logits(made, tokens=40):
    import torch

    with torch.no_grad():
        return made(torch.arange(3, 3 + tokens)[None]).logits


@functools.cache
def original(config, tokens):
    """Return weights and logits of a config, given as JSON."""
    made = model(json.loads(config))
    expected = logits(made, tokens)
    assert expected.isfinite().all()
    return made.state_dict(), expected


def difference(name, change, base=None, tokens=40):
    """Return how far a change of the tiny config takes the logits of the same weights, relative to the largest."""
    config = {**family(name).tiny_config(), **(base or {})}
    weights, expected = original(json.dumps(config), tokens)
    changed = model({**config, **change})
    changed.load_state_dict(weights, strict=False)
    return float((logits(changed, tokens) - expected).abs().max() / expected.abs().max())


def rope(name, **changes):
    """Return a family's RoPE parameters with changes; None removes one."""
    parameters = {**family(name).tiny_config()["rope_parameters"], **changes}
    return {"rope_parameters": {key: value for key, value in parameters.items() if value is not None}}


def test_each_folder_is_an_active_plugin():
    records = {record.name: record for record in HOST.records if record.origin == "in-tree"}
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
def test_a_family_is_short(name):
    """HunYuan has 60 lines: one config class served all of Tencent's models, and left its keys behind.

    How GGUF files of a family are written is a table, and counts apart.
    """
    text = (PLUGINS / name / "family.py").read_text()
    lines = dict(enumerate(text.splitlines(), 1))
    for node in gguf_nodes(ast.parse(text)):
        for number in range(node.lineno, node.end_lineno + 1):
            lines.pop(number, None)
    assert len([line for line in lines.values() if line.strip()]) <= (60 if name == "hunyuan_v1_dense" else 30)


def gguf_nodes(module):
    """Return the statements of a family's module that say how its GGUF files are written."""
    bodies = [module.body, *(node.body for node in module.body if isinstance(node, ast.ClassDef))]
    return [
        node
        for body in bodies
        for node in body
        if not isinstance(node, ast.ClassDef) and "gguf" in ast.unparse(node).casefold()
    ]


@pytest.mark.parametrize("name", FOLDERS)
def test_the_readme_names_the_claims(name):
    readme = (PLUGINS / name / "README.md").read_text()
    assert all(f"`{claim}`" in readme for claim in (*family(name).model_types, *family(name).architectures))


@pytest.mark.parametrize("name", FOLDERS)
def test_the_matrix_has_tiers_of_known_models(name):
    matrix = yaml.safe_load((PLUGINS / name / "matrix.yaml").read_text())
    assert {"l0"} <= set(matrix) <= {"l0", "l1"}
    assert all(entry.startswith("tiny-") for entry in matrix["l0"])
    own = [model for model in REGISTRY.names() if REGISTRY.get(model).family == name]
    entries = [item if isinstance(item, str) else item["entry"] for item in matrix.get("l1", ())]
    assert all(entry.startswith(tuple(f"{model}-" for model in own)) for entry in entries)


@pytest.mark.parametrize("name", FOLDERS)
def test_the_tiny_config_is_claimed_and_read_whole(name):
    from transformers import AutoConfig

    config = dict(family(name).tiny_config())
    assert HOST.select(config).family.name == name
    loaded = AutoConfig.for_model(**config)
    read = loaded.to_dict()
    for key, value in config.items():
        found = read[key] if key in read else getattr(loaded, key)
        assert value.items() <= found.items() if isinstance(value, dict) else found == value, key
    assert "rope_parameters" in config or not hasattr(loaded, "rope_parameters")
    assert 2 <= loaded.num_hidden_layers <= 4
    assert loaded.num_attention_heads >= loaded.num_key_value_heads > 1


FULL = {"layer_types": ["full_attention"] * 4}
WINDOWED = {"layer_types": ["sliding_attention"] * 4}
WIDE = {"sliding_window": 64}
PLAIN = {"rope_type": "default"}
SPECIAL = {
    "llama: RoPE scaling": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
    "qwen2: window": ("qwen2", FULL),
    "qwen2: order of windows": ("qwen2", {"layer_types": ["full_attention", "sliding_attention"] * 2}),
    "mistral: window": ("mistral", {"sliding_window": None}),
    "ministral: window": ("ministral", FULL),
    "ministral: order of windows": ("ministral", {"layer_types": ["full_attention", "sliding_attention"] * 2}),
    "ministral3: YaRN": ("ministral3", rope("ministral3", **PLAIN)),
    "ministral3: growing queries": ("ministral3", rope("ministral3", llama_4_scaling_beta=0.0)),
    "phi: part of the head": ("phi", rope("phi", partial_rotary_factor=1.0)),
    "phi: norms on q and k": ("phi", {"qk_layernorm": False}),
    "phi3: window": ("phi3", {"sliding_window": None}),
    "phi3: long factors": ("phi3", rope("phi3", long_factor=[1.0, 1.1, 1.2, 1.3, 1.4, 1.5])),
    "phi3: scale of the tables": ("phi3", rope("phi3", factor=1.0)),
    "gemma: GELU": ("gemma", {"hidden_act": "silu"}),
    "gemma2: cap of attention": ("gemma2", {"attn_logit_softcapping": None}),
    "gemma2: cap of the logits": ("gemma2", {"final_logit_softcapping": None}),
    "gemma2: scale of attention": ("gemma2", {"query_pre_attn_scalar": 24}),
    "gemma2: window": ("gemma2", FULL),
    "gemma3_text: scale of attention": ("gemma3_text", {"query_pre_attn_scalar": 24}),
    "gemma3_text: window": ("gemma3_text", WIDE),
    "gemma3_text: local RoPE": (
        "gemma3_text", rope("gemma3_text", sliding_attention={"rope_type": "default", "rope_theta": 1e6}), WIDE
    ),
    "gemma3_text: scaled global RoPE": (
        "gemma3_text", rope("gemma3_text", full_attention={"rope_type": "default", "rope_theta": 1e6})
    ),
    "exaone4: window": ("exaone4", WIDE),
    "exaone4: full layers without RoPE": ("exaone4", WINDOWED, WIDE),
    "exaone4: RoPE scaling": ("exaone4", {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}, WIDE),
    "glm4: part of the head": ("glm4", rope("glm4", partial_rotary_factor=1.0)),
    "glm4: biases": ("glm4", {"attention_bias": False}),
    "starcoder2: window": ("starcoder2", {"sliding_window": None}),
    "starcoder2: biases": ("starcoder2", {"use_bias": False}),
    "stablelm: part of the head": ("stablelm", rope("stablelm", partial_rotary_factor=1.0)),
    "stablelm: parallel block": ("stablelm", {"use_parallel_residual": False}),
    "stablelm: norms on q and k": ("stablelm", {"qk_layernorm": False}),
    "stablelm: biases": ("stablelm", {"use_qkv_bias": False}),
    "smollm3: full layers without RoPE": ("smollm3", {"no_rope_layers": [1, 0, 1, 1]}),
    "smollm3: windowed layers without RoPE": ("smollm3", {"no_rope_layers": [1, 1, 0, 1]}),
    "smollm3: window": ("smollm3", FULL),
    "granite: multiplier of embeddings": ("granite", {"embedding_multiplier": 1.0}),
    "granite: multiplier of attention": ("granite", {"attention_multiplier": 0.25}),
    "granite: multiplier of residuals": ("granite", {"residual_multiplier": 1.0}),
    "granite: divisor of logits": ("granite", {"logits_scaling": 1.0}),
    "cohere: scale of logits": ("cohere", {"logit_scale": 1.0}),
    "cohere: norms on q and k": ("cohere", {"use_qk_norm": False}),
    "cohere2: scale of logits": ("cohere2", {"logit_scale": 1.0}),
    "cohere2: window": ("cohere2", WIDE),
    "cohere2: full layers without RoPE": ("cohere2", WINDOWED, WIDE),
    "hunyuan_v1_dense: alpha": ("hunyuan_v1_dense", rope("hunyuan_v1_dense", alpha=None, **PLAIN)),
    "mixtral: window": ("mixtral", {"sliding_window": None}),
    "mixtral: two experts": ("mixtral", {"num_experts_per_tok": 1}),
    "qwen2_moe: window": ("qwen2_moe", FULL),
    "qwen2_moe: weights as they are": ("qwen2_moe", {"norm_topk_prob": True}),
    "qwen3_moe: weights that add up to 1": ("qwen3_moe", {"norm_topk_prob": False}),
    "qwen3_moe: window": ("qwen3_moe", {"use_sliding_window": False}),
    "qwen3_moe: YaRN": ("qwen3_moe", {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
    "dbrx: clipping": ("dbrx", {"attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 99.0}}),
    "olmoe: clipping": ("olmoe", {"clip_qkv": None}),
    "olmoe: weights as they are": ("olmoe", {"norm_topk_prob": True}),
    "gpt_oss: window": ("gpt_oss", FULL),
    "gpt_oss: YaRN": ("gpt_oss", {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}, FULL),
    "gpt_oss: clamp": ("gpt_oss", {"swiglu_limit": 7.0}),
}  # fmt: skip
"""What is special → family, the change of its tiny config that leaves it out, and a change that both sides have."""


@pytest.mark.parametrize("case", SPECIAL.values(), ids=SPECIAL)
def test_leaving_out_what_is_special_changes_the_logits(case):
    assert difference(*case) > 0.03


def test_phi3_turns_short_prompts_by_the_short_factors():
    change = rope("phi3", short_factor=[2.0, 2.5, 3.0, 3.5, 4.0, 4.5])
    assert difference("phi3", change, tokens=12) > 0.03
    assert difference("phi3", change, tokens=13) == 0.0


@pytest.mark.parametrize(
    ("name", "parameter", "value"),
    [
        ("gpt_oss", "self_attn.sinks", -100.0),
        ("gpt_oss", "mlp.experts.gate_up_proj_bias", 0.0),
        ("gpt_oss", "mlp.experts.down_proj_bias", 0.0),
        ("qwen2_moe", "mlp.shared_expert_gate.weight", 0.0),
        ("gemma", "input_layernorm.weight", 0.0),
        ("olmo2", "post_attention_layernorm.weight", 0.0),
        ("glm4", "post_mlp_layernorm.weight", 1.0),
        ("gemma2", "post_feedforward_layernorm.weight", 0.0),
    ],
    ids=str,
)
def test_parameters_of_what_is_special_matter(name, parameter, value):
    import torch

    made = model(family(name).tiny_config())
    expected = logits(made)
    with torch.no_grad():
        for own, tensor in made.named_parameters():
            if own.endswith(parameter):
                tensor.fill_(value)
    assert float((logits(made) - expected).abs().max() / expected.abs().max()) > 0.03


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama", ["self_attn.q_proj.bias", "self_attn.o_proj.bias", "mlp.down_proj.bias"]),
        ("qwen2", ["self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"]),
        ("qwen3", ["self_attn.q_norm.weight", "self_attn.k_norm.weight", "self_attn.q_proj.bias"]),
        ("phi", ["self_attn.dense.bias", "mlp.fc2.bias", "self_attn.q_layernorm.bias"]),
        ("phi3", ["self_attn.qkv_proj.weight", "mlp.gate_up_proj.weight"]),
        ("gemma2", ["pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight"]),
        ("gemma3_text", ["self_attn.q_norm.weight", "post_feedforward_layernorm.weight"]),
        ("olmo2", ["self_attn.q_norm.weight", "post_feedforward_layernorm.weight"]),
        ("exaone4", ["self_attn.k_norm.weight", "post_feedforward_layernorm.weight"]),
        ("glm4", ["post_self_attn_layernorm.weight", "post_mlp_layernorm.weight", "mlp.gate_up_proj.weight"]),
        ("starcoder2", ["input_layernorm.bias", "mlp.c_proj.bias"]),
        ("stablelm", ["self_attn.q_layernorm.norms.5.weight", "self_attn.k_proj.bias", "input_layernorm.bias"]),
        ("smollm3", ["self_attn.o_proj.bias", "mlp.down_proj.bias"]),
        ("granite", ["self_attn.o_proj.bias", "mlp.down_proj.bias"]),
        ("cohere", ["self_attn.q_norm.weight", "self_attn.o_proj.bias"]),
        ("hunyuan_v1_dense", ["self_attn.query_layernorm.weight", "self_attn.key_layernorm.weight"]),
        ("mixtral", ["mlp.gate.weight", "mlp.experts.gate_up_proj"]),
        ("qwen3_moe", ["self_attn.q_norm.weight", "self_attn.q_proj.bias", "mlp.experts.down_proj"]),
        ("olmoe", ["self_attn.q_norm.weight", "mlp.experts.down_proj"]),
        ("gpt_oss", ["self_attn.sinks", "mlp.router.bias", "mlp.experts.down_proj_bias"]),
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
