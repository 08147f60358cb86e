"""The settings that each tool is known to write; another one may change what the packed weights mean.

Sources: transformers 5.23 (``quantization_config.py``), AutoGPTQ 0.7 and GPTQModel 4 (``QuantizeConfig``), AutoAWQ 0.2
(``AwqConfig``), AutoRound 0.8 (which labels what it writes ``gptq`` or ``awq``), compressed-tensors 0.12
(``QuantizationConfig``, ``QuantizationScheme``, ``QuantizationArgs``), ModelOpt 0.47 (``unified_export_hf``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgellm_core.quantization.errors import UnsupportedQuantizationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_AUTO_ROUND: Final = frozenset({
    "amp", "autoround_version", "batch_size", "data_type", "dataset", "enable_minmax_tuning",
    "enable_norm_bias_tuning", "enable_quanted_input", "gradient_accumulate_steps", "iters", "low_cpu_mem_usage",
    "low_gpu_mem_usage", "lr", "minmax_lr", "not_use_best_mse", "nsamples", "provider", "quant_block_list",
    "scale_dtype", "seqlen", "to_quant_block_names", "train_bs",
})  # fmt: skip
"""How weights were searched for."""

GPTQ: Final = _AUTO_ROUND | {
    "act_group_aware", "adapter", "backend", "bits", "block_name_to_quantize", "cache_block_outputs",
    "checkpoint_format", "damp_auto_increment", "damp_percent", "desc_act", "device", "disable_exllama", "dynamic",
    "exllama_config", "format", "gptaq", "group_size", "is_marlin_format", "lm_head", "max_input_length", "meta",
    "model_file_base_name", "model_name_or_path", "model_seqlen", "module_name_preceding_first_block",
    "modules_in_block_to_quantize", "modules_to_not_convert", "mse", "offload_to_disk", "offload_to_disk_path",
    "pack_dtype", "pack_impl", "pad_token_id", "quant_method", "rotation", "static_groups", "sym", "tokenizer",
    "true_sequential", "use_cuda_fp16", "use_exllama", "v2", "v2_alpha", "v2_memory_device",
}  # fmt: skip
AWQ: Final = _AUTO_ROUND | {
    "backend", "bits", "desc_act", "do_fuse", "exllama_config", "format", "fuse_max_seq_len", "group_size", "meta",
    "modules_to_fuse", "modules_to_not_convert", "q_group_size", "quant_method", "sym", "version", "w_bit",
    "zero_point",
}  # fmt: skip
COMPRESSED_TENSORS: Final = frozenset({
    "config_groups", "dequantize", "format", "global_compression_ratio", "ignore", "kv_cache_scheme", "quant_method",
    "quantization_status", "run_compressed", "sparsity_config", "transform_config", "use_optimized_inference",
    "version",
})  # fmt: skip
COMPRESSED_GROUP: Final = frozenset({"format", "input_activations", "output_activations", "targets", "weights"})
COMPRESSED_PART: Final = frozenset({
    "actorder", "block_structure", "dynamic", "group_size", "num_bits", "observer", "observer_kwargs", "scale_dtype",
    "strategy", "symmetric", "type", "zp_dtype",
})  # fmt: skip
MODELOPT: Final = frozenset({
    "config_groups", "exclude_modules", "group_size", "ignore", "kv_cache_quant_algo", "kv_cache_scheme",
    "pre_quant_scale", "producer", "quant_algo", "quant_method", "quantized_layers",
})  # fmt: skip


def require_known_settings(directory: Path, tool: str, settings: Mapping[str, Any], known: frozenset[str]) -> None:
    """Refuse a setting that nothing here knows; one that is off or empty changes nothing.

    Args:
        directory: the checkpoint.
        tool: its name, for the message.
        settings: what the checkpoint says.
        known: names of the settings that are read, or that change no number.

    Raises:
        UnsupportedQuantizationError: naming the setting and its value.
    """
    for key, value in settings.items():
        if key not in known and value not in (None, False, "", [], {}):
            what = f"{tool} with {key!r}: {value!r}, a setting that is not known (remove it if it changes no number)"
            raise UnsupportedQuantizationError(directory, what)
