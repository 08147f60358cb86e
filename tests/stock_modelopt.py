"""Tiny checkpoints that ModelOpt itself quantizes and exports: an independent source of every form that it writes."""

from __future__ import annotations

import copy
import json
import warnings
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

if TYPE_CHECKING:
    from pathlib import Path

CONFIGS = {
    "fp8": "FP8_DEFAULT_CFG",
    "int8_sq": "INT8_SMOOTHQUANT_CFG",
    "int4_awq": "INT4_AWQ_CFG",
    "nvfp4": "NVFP4_DEFAULT_CFG",
    "mxfp8": "MXFP8_DEFAULT_CFG",
}
"""Our scheme → name of ModelOpt's configuration."""


def tiny_llama(**changes: Any) -> Any:
    """Return a random Llama in float32 whose widths every scheme divides."""
    torch.manual_seed(0)
    settings = {
        "vocab_size": 256, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": False,
        "architectures": ["LlamaForCausalLM"],
    }  # fmt: skip
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **(settings | changes)), dtype=torch.float32)


def quantize_stock(scheme: str, *, model: Any = None, kv_cache: bool = False, batches: int = 4) -> Any:
    """Quantize a model with ModelOpt's own configuration and return it fake-quantized.

    Args:
        scheme: key of ``CONFIGS``.
        model: model to quantize in place; None for ``tiny_llama()``.
        kv_cache: round keys and values to fp8 too.
        batches: sequences of 32 random tokens to calibrate with.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import modelopt.torch.quantization as mtq

        model = tiny_llama() if model is None else model
        config = copy.deepcopy(getattr(mtq, CONFIGS[scheme]))
        if kv_cache:
            config = mtq.utils.update_quant_cfg_with_kv_cache_quant(config, copy.deepcopy(mtq.FP8_KV_CFG["quant_cfg"]))
        ids = torch.randint(0, model.config.vocab_size, (batches, 32), generator=torch.Generator().manual_seed(1))
        return mtq.quantize(model, config, lambda calibrated: calibrated(ids))


def export_stock(folder: Path, scheme: str, **options: Any) -> Any:
    """Quantize a model like ``quantize_stock`` and export it to ``folder``; return what ModelOpt leaves in memory."""
    quantized = quantize_stock(scheme, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from modelopt.torch.export import export_hf_checkpoint

        export_hf_checkpoint(quantized, dtype=torch.float16, export_dir=str(folder))
    return quantized


def describe(folder: Path, **quantization: Any) -> None:
    """Describe a checkpoint in hf_quant_config.json, and there only."""
    (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": quantization}))
    config = json.loads((folder / "config.json").read_text())
    config.pop("quantization_config", None)
    (folder / "config.json").write_text(json.dumps(config))


def export_with_twin(folder: Path, scheme: str, **options: Any) -> Any:
    """Quantize a model like ``quantize_stock``, export it to ``folder``, and return the same model, fake-quantized.

    The export packs the weights of its own model, which does not run any more. Before, it lets layers that share an
    input share scales: ModelOpt's own function does the same to the model that is returned.
    """
    quantized = quantize_stock(scheme, **options)
    twin = copy.deepcopy(quantized)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from modelopt.torch.export import export_hf_checkpoint
        from modelopt.torch.export.unified_export_hf import requantize_resmooth_fused_llm_layers

        requantize_resmooth_fused_llm_layers(twin)
        export_hf_checkpoint(quantized, dtype=torch.float32, export_dir=str(folder))
    return twin
