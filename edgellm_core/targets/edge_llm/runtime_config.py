"""config.json of the runtime.

Heads, sizes, scale and windows are those of the graph; the rest is the checkpoint's. The runtime computes the RoPE
angles from it, so a key that is wrong here makes wrong answers; the parity gate computes them the same way.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.targets.edge_llm.errors import ConfigMismatchError
from edgellm_core.targets.edge_llm.rope_config import rope_fields

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.contract import ModelFamily

VERSION: Final = "0.11.0"
"""Release of TensorRT-Edge-LLM whose contract the files keep."""

EXPERTS: Final = ("Fp16MoePlugin", "Int4MoePlugin")
"""Plugins for mixtures of experts."""


def runtime_config(
    model: onnx.ModelProto, checkpoint: Checkpoint, family: ModelFamily, *, generation: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the fields of config.json.

    Args:
        model: the lowered graph.
        checkpoint: the original.
        family: its family.
        generation: the checkpoint's generation_config.json.

    Raises:
        RopeNotExpressibleError: the runtime can't compute the model's angles.
        ConfigMismatchError: layers differ in what config.json has one number for.
    """
    from edgellm_core.tracing.configuration import load_config

    loaded: Any = load_config(
        checkpoint.directory, checkpoint.config, family, trust_remote_code=checkpoint.trust_remote_code
    )
    text = loaded.get_text_config()
    plugins = [_attributes(node) for node in model.graph.node if node.op_type == "AttentionPlugin"]
    head_dim = _one(plugins, "head_size")
    vocab, hidden = _last_sizes(model)
    rope = rope_fields(checkpoint.config, text.to_dict(), head_dim=head_dim, rotary_dim=_rotary_dim(model))
    fields: dict[str, Any] = {
        "model": str(checkpoint.config.get("model_type", family.name)),
        "spec_decode_type": "none",
        "engine_role": "llm",
        "edgellm_version": VERSION,
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": int(text.intermediate_size),
        "num_hidden_layers": len(plugins),
        "num_attention_heads": _one(plugins, "num_q_heads"),
        "num_key_value_heads": _one(plugins, "num_kv_heads"),
        "head_dim": head_dim,
        "max_position_embeddings": int(text.max_position_embeddings),
        **rope,
        "num_deepstack_features": 0,
        "use_vision_bidirectional_attention": False,
        "rms_norm_eps": float(_epsilon(text)),
        **_attention_fields(plugins, head_dim),
        **_expert_fields(model),
        "ple_enabled": False,
        "num_ple_inputs": 0,
        "ple_hidden_size": 0,
        "kv_cache_dtype": "fp8" if _one(plugins, "enable_fp8_kv_cache") else "fp16",
    }
    stops = list(dict.fromkeys(_ids(checkpoint.config.get("eos_token_id")) + _ids(generation.get("eos_token_id"))))
    return {**fields, "eos_token_id": stops} if stops else fields


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _one(plugins: Sequence[Mapping[str, Any]], key: str) -> int:
    values = sorted({int(plugin[key]) for plugin in plugins})
    if len(values) != 1:
        raise ConfigMismatchError(key, values)
    return values[0]


def _last_sizes(model: onnx.ModelProto) -> tuple[int, int]:
    """Return the vocabulary and the hidden size."""
    logits = next(value for value in model.graph.output if value.name == "logits")
    embeds = next(value for value in model.graph.input if value.name == "inputs_embeds")
    return tuple(value.type.tensor_type.shape.dim[1].dim_value for value in (logits, embeds))


def _rotary_dim(model: onnx.ModelProto) -> int:
    angles = next(value for value in model.graph.input if value.name == "rope_rotary_cos_sin")
    return int(angles.type.tensor_type.shape.dim[1].dim_value)


def _epsilon(text: Any) -> float:
    """Return the epsilon of the norms under any of its names; the graph has its own, the runtime only shows it."""
    names = ("rms_norm_eps", "norm_epsilon", "layer_norm_eps", "layer_norm_epsilon", "norm_eps")
    return float(next((getattr(text, name) for name in names if hasattr(text, name)), 1e-6))


def _attention_fields(plugins: Sequence[Mapping[str, Any]], head_dim: int) -> dict[str, Any]:
    """Return the scale and the windows."""
    scales = sorted({float(plugin["attention_scale"]) for plugin in plugins})
    if len(scales) > 1:
        raise ConfigMismatchError("attention_scaling", scales)
    usual = head_dim**-0.5
    same = math.isclose(scales[0], usual, rel_tol=1e-6)  # the graph's is rounded to float32
    fields: dict[str, Any] = {"attention_scaling": usual if same else scales[0]}
    windows = [int(plugin["sliding_window_size"]) for plugin in plugins]
    sliding = sorted({window for window in windows if window >= 0})
    if len(sliding) > 1:
        raise ConfigMismatchError("sliding_window_size", sliding)
    if sliding:
        fields["attention_layer_types"] = ["sliding_attention" if w >= 0 else "full_attention" for w in windows]
        fields["sliding_window_size"] = sliding[0]
    return fields


def _expert_fields(model: onnx.ModelProto) -> dict[str, Any]:
    """Return the sizes of mixtures of experts; nothing for a model without any."""
    plugins = [_attributes(node) for node in model.graph.node if node.op_type in EXPERTS]
    if not plugins:
        return {}
    return {
        "num_experts": _one(plugins, "num_experts"),
        "num_experts_per_tok": _one(plugins, "top_k"),
        "moe_intermediate_size": _one(plugins, "moe_inter_size"),
        "enable_moe_block": False,  # of gemma4, whose layers have an MLP beside the experts
    }


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [int(item) for item in values if isinstance(item, int)]
