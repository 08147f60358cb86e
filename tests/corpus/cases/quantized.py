"""Checkpoints that other tools quantized, where what they say and what they hold may differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.corpus.case import Made, case
from tests.corpus.checkpoints import edit_json, llama
from tests.corpus.packed import (
    AWQ,
    FLOAT8,
    FOUR_BITS,
    GPTQ,
    awq,
    compressed,
    compressed_settings,
    float8,
    gptq,
    gptq_v2,
    modelopt,
    packed,
)

if TYPE_CHECKING:
    from pathlib import Path


@case(outcome="right", note="calls itself gptq, but stores the zero points of its symmetric layers as gptq_v2 does")
def gptq_zeros_of_the_second_format(folder: Path) -> Made:
    """sym: true, zero points of 0x88888888, and the label of the first format."""
    return packed(folder, GPTQ | {"checkpoint_format": "gptq"}, gptq_v2)


@case(outcome="right", note="calls itself gptq_v2")
def gptq_zeros_of_the_first_format(folder: Path) -> Made:
    """sym: true, zero points of 0x77777777, and the label of the second format."""
    return packed(folder, GPTQ | {"checkpoint_format": "gptq_v2"}, gptq)


@case(outcome="right")
def gptq_label_under_format(folder: Path) -> Made:
    """The second format, named by ``format`` as GPTQModel and transformers 5 do, with zero points that differ."""
    return packed(folder, GPTQ | {"format": "gptq_v2", "sym": False}, gptq_v2, symmetric=False)


@case(outcome="right")
def gptq_asymmetric(folder: Path) -> Made:
    """The first format with zero points that differ, labels under both keys, and groups that act-order shuffled."""
    settings = GPTQ | {"format": "gptq", "checkpoint_format": "gptq", "sym": False, "desc_act": True}
    return packed(folder, settings, gptq, symmetric=False, shuffled=True)


@case(outcome="right")
def gptq_act_order_without_desc_act(folder: Path) -> Made:
    """desc_act is false, and g_idx shuffles the groups: g_idx counts."""
    return packed(folder, GPTQ, gptq, shuffled=True)


@case(outcome="refused", message="checkpoint_format is 'gptq' and format is 'gptq_v2'")
def gptq_two_labels(folder: Path) -> Made:
    """Two labels that differ."""
    return packed(folder, GPTQ | {"checkpoint_format": "gptq", "format": "gptq_v2"}, gptq)


@case(outcome="refused", message="which makes every zero point 8")
def gptq_symmetric_in_name_only(folder: Path) -> Made:
    """sym: true with zero points that differ."""
    return packed(folder, GPTQ, gptq, symmetric=False)


@case(outcome="refused", message="would be 9; they are 8 under the other label")
def gptq_asymmetric_in_name_only(folder: Path) -> Made:
    """sym: false with zero points of 0x88888888 under the label of the first format."""
    return packed(folder, GPTQ | {"sym": False}, gptq_v2)


@case(outcome="refused", message="group_size 64 means 1 groups of the 64 inputs")
def gptq_other_group_size(folder: Path) -> Made:
    """A group size that is not that of the scales."""
    return packed(folder, GPTQ | {"group_size": 64}, gptq)


@case(outcome="refused", message="which says the group of each input, is missing")
def gptq_desc_act_without_g_idx(folder: Path) -> Made:
    """desc_act is true, and nothing says which group an input belongs to."""

    def without(_module, parts):
        return {suffix: part for suffix, part in parts.items() if suffix != "g_idx"}

    return packed(folder, GPTQ | {"desc_act": True}, gptq, change=without)


@case(outcome="refused", message="stored as 7 in some layers and 8 in others")
def gptq_layers_of_both_formats(folder: Path) -> Made:
    """Zero points of 7 and of 8 in one symmetric checkpoint."""

    def second(module, parts):
        return parts | ({"qzeros": np.full_like(parts["qzeros"], -2004318072)} if "layers.1" in module else {})

    return packed(folder, GPTQ, gptq, change=second)


@case(
    outcome="refused", values_only=True, message="steps in every layer, so the zero points are those of the other label"
)
def gptq_asymmetric_under_the_other_label(folder: Path) -> Made:
    """sym: false, zero points as the second format stores them, and the label of the first."""
    return packed(folder, GPTQ | {"sym": False}, gptq_v2, symmetric=False)


@case(outcome="refused", message="dynamic '-:.*up_proj' leaves")
def gptq_packed_layer_that_is_excluded(folder: Path) -> Made:
    """``dynamic`` leaves a layer unquantized that holds packed weights."""
    return packed(folder, GPTQ | {"dynamic": {"-:.*up_proj": {}}}, gptq)


@case(outcome="refused", message="names 'model.layers.0.mlp.up_proj', which holds a plain weight")
def gptq_listed_layer_that_is_plain(folder: Path) -> Made:
    """``modules_in_block_to_quantize`` lists a layer that is not quantized."""
    names = [f"self_attn.{part}_proj" for part in "qkvo"] + ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    settings = GPTQ | {"modules_in_block_to_quantize": [names]}
    return packed(folder, settings, gptq, plain_layers=("up_proj",))


@case(outcome="right")
def gptq_layer_that_is_plain(folder: Path) -> Made:
    """A layer that is not quantized, as no list says: the tensors decide."""
    return packed(folder, GPTQ, gptq, plain_layers=("layers.1.mlp.up_proj",))


@case(outcome="right")
def gptq_quantized_head(folder: Path) -> Made:
    """A quantized lm_head."""
    return packed(folder, GPTQ | {"lm_head": True}, gptq, head=True)


@case(outcome="refused", message="lm_head is True, and the head holds no packed weight")
def gptq_head_in_name_only(folder: Path) -> Made:
    """lm_head: true with a plain head."""
    return packed(folder, GPTQ | {"lm_head": True}, gptq)


@case(outcome="refused", message="sym is True in config.json and False in quantize_config.json")
def gptq_two_files_of_settings(folder: Path) -> Made:
    """AutoGPTQ's own file beside config.json says otherwise."""
    made = packed(folder, GPTQ, gptq)
    (made.source / "quantize_config.json").write_text('{"bits": 4, "sym": false}')
    return made


@case(outcome="refused", message="and 'model.layers.0.mlp.down_proj.weight' too")
def gptq_packed_and_plain(folder: Path) -> Made:
    """Layers that hold a packed weight and a plain one."""

    def both(_module, parts):
        return parts | {"weight": np.zeros((64, 64), np.float32)}

    return packed(folder, GPTQ, gptq, change=both)


@case(outcome="refused", message="quant_method is 'gptq', and no layer holds a packed weight")
def gptq_in_name_only(folder: Path) -> Made:
    """A plain checkpoint whose config.json says that it is quantized."""
    source = llama(folder)
    edit_json(source / "config.json", quantization_config=GPTQ)
    return Made(source)


@case(outcome="right")
def awq_asymmetric(folder: Path) -> Made:
    """AutoAWQ with zero points that differ."""
    return packed(folder, AWQ, awq, symmetric=False)


@case(outcome="right")
def awq_one_group(folder: Path) -> Made:
    """AutoAWQ with one group of all inputs."""
    return packed(folder, AWQ | {"group_size": -1}, awq, symmetric=False, group=64)


@case(outcome="refused", message="zero_point is false, which makes every zero point 8")
def awq_zero_points_that_are_denied(folder: Path) -> Made:
    """zero_point: false with zero points that differ."""
    return packed(folder, AWQ | {"zero_point": False}, awq, symmetric=False)


@case(outcome="refused", message="modules_to_not_convert leaves 'model.layers.0.mlp.down_proj' unquantized")
def awq_packed_layer_that_is_excluded(folder: Path) -> Made:
    """``modules_to_not_convert`` names a layer that holds packed weights."""
    return packed(folder, AWQ | {"modules_to_not_convert": ["mlp"]}, awq)


@case(outcome="refused", message="must be F16 or BF16 or F32")
def awq_of_gptq(folder: Path) -> Made:
    """quant_method awq over GPTQ's tensors, without scales that would show it."""

    def without(_module, parts):
        return {suffix: part for suffix, part in parts.items() if suffix != "scales"}

    return packed(folder, AWQ, gptq, change=without)


@case(outcome="refused", message="by its quantization; got")
def gptq_of_awq(folder: Path) -> Made:
    """quant_method gptq over AutoAWQ's tensors."""
    return packed(folder, GPTQ | {"sym": False, "checkpoint_format": "gptq_v2"}, awq, symmetric=False)


PACKED = compressed_settings("pack-quantized", FOUR_BITS)


@case(outcome="right")
def compressed_act_order(folder: Path) -> Made:
    """compressed-tensors with groups that act-order shuffled and zero points that differ."""
    weights = FOUR_BITS | {"actorder": "group", "symmetric": False}
    return packed(folder, compressed_settings("pack-quantized", weights), compressed, symmetric=False, shuffled=True)


@case(outcome="refused", message="symmetric is true, and 'model.layers.0.mlp.down_proj.weight_zero_point' holds other")
def compressed_zero_points_that_are_denied(folder: Path) -> Made:
    """symmetric: true with zero points."""
    return packed(folder, PACKED, compressed, symmetric=False)


@case(outcome="refused", message="symmetric is false, and 'model.layers.0.mlp.down_proj.weight_zero_point' is missing")
def compressed_without_zero_points(folder: Path) -> Made:
    """symmetric: false without zero points."""
    return packed(folder, compressed_settings("pack-quantized", FOUR_BITS | {"symmetric": False}), compressed)


@case(outcome="refused", message="actorder is None, and 'model.layers.0.mlp.down_proj.weight_g_idx' orders the inputs")
def compressed_order_that_is_denied(folder: Path) -> Made:
    """An order of the inputs that the settings don't know of."""
    return packed(folder, PACKED, compressed, shuffled=True)


@case(outcome="refused", message="ignore leaves 'model.layers.0.mlp.down_proj' unquantized (by 're:.*mlp.*')")
def compressed_packed_layer_that_is_ignored(folder: Path) -> Made:
    """``ignore`` names layers that hold packed weights."""
    return packed(folder, PACKED | {"ignore": ["lm_head", "re:.*mlp.*"]}, compressed)


@case(outcome="refused", message="no group of config_groups means 'model.layers.0.mlp.down_proj'")
def compressed_layer_without_settings(folder: Path) -> Made:
    """No group of settings means a layer that holds packed weights."""
    settings = compressed_settings("pack-quantized", FOUR_BITS)
    settings["config_groups"]["group_0"]["targets"] = ["re:.*self_attn.*"]
    return packed(folder, settings, compressed)


@case(outcome="refused", message="kv_cache_scheme rounds the KV cache, and no layer has k_scale and v_scale")
def compressed_cache_without_scales(folder: Path) -> Made:
    """kv_cache_scheme without a scale."""
    return float8(folder, kv_cache_scheme=FLOAT8)


@case(outcome="refused", message="no kv_cache_scheme rounds the KV cache, and there is")
def compressed_scales_without_cache(folder: Path) -> Made:
    """Scales of a cache that no setting knows of."""
    return float8(folder, cache=True, kv_cache_scheme=None)


@case(outcome="refused", message="strategy is 'tensor', and the scales of")
def compressed_other_strategy(folder: Path) -> Made:
    """One scale for each output where the settings say one for the tensor."""
    made = float8(folder, by_channel=True)
    edit_json(made.source / "config.json", quantization_config=compressed_settings("float-quantized", FLOAT8, FLOAT8))
    return made


def with_scale(value):
    """Return a change that sets one scale of every layer."""

    def change(_module, parts):
        parts["scales"][0, 0] = value
        return parts

    return change


@case(outcome="refused", values_only=True, message="has the value -1")
def gptq_negative_scale(folder: Path) -> Made:
    """A scale below zero."""
    return packed(folder, GPTQ, gptq, change=with_scale(-1))


@case(outcome="refused", values_only=True, message="has the value nan")
def awq_scale_that_is_no_number(folder: Path) -> Made:
    """A scale of NaN."""
    return packed(folder, AWQ, awq, change=with_scale(np.nan))


@case(outcome="refused", values_only=True, message="has the value 0")
def gptq_scale_of_zero(folder: Path) -> Made:
    """A scale of zero over codes that are not."""
    return packed(folder, GPTQ, gptq, change=with_scale(0))


@case(outcome="refused", message="exclude_modules leaves 'model.layers.0.mlp.down_proj' unquantized (by '*.mlp.*')")
def modelopt_excluded_layer_with_scales(folder: Path) -> Made:
    """``exclude_modules`` names layers that have scales."""
    return modelopt(folder, exclude_modules=["lm_head", "*.mlp.*"])


@case(outcome="refused", message="quant_algo is 'FP8' in hf_quant_config.json and 'NVFP4' in config.json")
def modelopt_two_descriptions(folder: Path) -> Made:
    """hf_quant_config.json and config.json differ."""
    made = modelopt(folder)
    own = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
    edit_json(made.source / "config.json", quantization_config=own)
    return made


@case(outcome="refused", message="is of type F8_E4M3, and has no weight_scale")
def modelopt_layer_without_scale(folder: Path) -> Made:
    """A layer in FP8 that lost its scale."""

    def change(tensors):
        del tensors["model.layers.1.mlp.up_proj.weight_scale"]
        return tensors

    return modelopt(folder, change=change)


@case(outcome="refused", message="kv_cache_quant_algo is 'FP8', and no layer has k_scale and v_scale")
def modelopt_cache_without_scales(folder: Path) -> Made:
    """An FP8 cache without a scale."""
    return modelopt(folder, kv_cache_quant_algo="FP8")


@case(outcome="refused", message="GPTQ with 'hadamard': True, a setting that is not known")
def gptq_unknown_setting(folder: Path) -> Made:
    """A setting that no tool is known to write."""
    return packed(folder, GPTQ | {"hadamard": True}, gptq)


@case(outcome="right")
def gptq_of_auto_round(folder: Path) -> Made:
    """AutoRound labels its checkpoints gptq, and says how it searched."""
    settings = {"autoround_version": "0.8.0", "iters": 200, "nsamples": 128, "enable_quanted_input": False}
    return packed(folder, GPTQ | settings, gptq)


@case(outcome="refused", message="AutoAWQ with 'rotate': 'hadamard', a setting that is not known")
def awq_unknown_setting(folder: Path) -> Made:
    """The same of AWQ."""
    return packed(folder, AWQ | {"rotate": "hadamard"}, awq)


@case(outcome="refused", message="compressed-tensors with 'smoothing': 0.5, a setting that is not known")
def compressed_unknown_setting(folder: Path) -> Made:
    """A setting of the weights that compressed-tensors itself would refuse."""
    return packed(folder, compressed_settings("pack-quantized", FOUR_BITS | {"smoothing": 0.5}), compressed)


@case(outcome="refused", message="ModelOpt with 'has_zero_point': True, a setting that is not known")
def modelopt_unknown_setting(folder: Path) -> Made:
    """Zero points that no tensor shows."""
    return modelopt(folder, has_zero_point=True)


@case(outcome="refused", message="pre_quant_scale is true, and no layer has one")
def modelopt_factors_in_name_only(folder: Path) -> Made:
    """Factors of the inputs that are not there."""
    return modelopt(folder, pre_quant_scale=True)
