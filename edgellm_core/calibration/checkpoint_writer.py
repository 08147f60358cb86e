"""Writes ModelOpt's unified Hugging Face checkpoint, one safetensors file for each decoder layer."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.calibration.rounding import modelopt_version, quiet_modelopt
from edgellm_core.checkpoint.safetensors_header import read_header
from edgellm_core.checkpoint.shards import INDEX_FILE
from edgellm_core.quantization.formats import ALGORITHMS
from edgellm_core.quantization.layout import QUANT_CONFIG

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch

    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.quantization.formats import LinearFormat

MODELOPT_NAMES: Final = {
    "FP8": "fp8", "W8A8_SQ_PER_CHANNEL": "int8_sq", "W4A16_AWQ": "int4_awq", "NVFP4": "nvfp4",
    "W4A16_NVFP4": "w4a16_nvfp4", "MXFP8": "mxfp8",
}  # fmt: skip
"""``quant_algo`` → ModelOpt's own name of it (0.47, ``export/model_config.py``)."""

READABLE: Final = 0o644
"""Mode of the weights: safetensors writes files that only their owner can read."""


class CheckpointWriter:
    """Writes the files of a quantized checkpoint; each appears whole or not at all.

    Attributes:
        folder: where they go.
    """

    def __init__(self, folder: Path, shards: int) -> None:
        """Take the folder, which is created, and the number of safetensors files."""
        self.folder = folder
        self._shards = shards
        folder.mkdir(parents=True, exist_ok=True)

    def shard(self, index: int) -> Path:
        """Return the path of one safetensors file."""
        return self.folder / f"model-{index + 1:05}-of-{self._shards:05}.safetensors"

    def write_shard(self, index: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write one safetensors file."""
        from safetensors.torch import save_file

        path = self.shard(index)
        temporary = path.with_suffix(".new")
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata={"format": "pt"})
        temporary.chmod(READABLE)
        temporary.replace(path)

    def finish(
        self,
        checkpoint: Checkpoint,
        linears: Mapping[str, LinearFormat],
        excluded: Sequence[str],
        *,
        kv_cache: str | None,
        untied: bool,
    ) -> None:
        """Write the index, the configs and the tokenizer.

        Args:
            checkpoint: the source, whose other files are copied.
            linears: form of each quantized layer by its name in the checkpoint.
            excluded: names of the layers that stay in floats.
            kv_cache: ``fp8``, or None.
            untied: the head was tied to the embedding and now has weights of its own.
        """
        self._write_index()
        described = describe_quantization(linears, excluded, kv_cache=kv_cache)
        with quiet_modelopt():
            from modelopt.torch.export.convert_hf_config import convert_hf_quant_config_format

            converted = convert_hf_quant_config_format(described)
        config = {**checkpoint.config, "quantization_config": converted}
        if untied:
            config["tie_word_embeddings"] = False
        self._write_json(QUANT_CONFIG, described)
        for path in (checkpoint.directory / "generation_config.json", *checkpoint.tokenizer_files()):
            if path.is_file():
                copy = self.folder / path.relative_to(checkpoint.directory)
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, copy)
        if checkpoint.trust_remote_code:
            for path in checkpoint.directory.glob("*.py"):
                shutil.copyfile(path, self.folder / path.name)
        self._write_json("config.json", config)

    def _write_index(self) -> None:
        headers = [read_header(self.shard(index)) for index in range(self._shards)]
        total = sum(entry.nbytes for header in headers for entry in header.tensors.values())
        places = {name: header.file.name for header in headers for name in header.tensors}
        self._write_json(INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))})

    def _write_json(self, name: str, value: Mapping[str, Any]) -> None:
        (self.folder / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def describe_quantization(
    linears: Mapping[str, LinearFormat], excluded: Sequence[str], *, kv_cache: str | None
) -> dict[str, Any]:
    """Return the contents of hf_quant_config.json, as ModelOpt derives them from its layers.

    Args:
        linears: form of each quantized layer.
        excluded: layers that stay in floats.
        kv_cache: ``fp8``, or None.
    """
    layers: dict[str, Any] = {}
    for name, form in linears.items():
        layers[f"{name}.quantization"] = MODELOPT_NAMES[algorithm_of(form)]
        layers[f"{name}.awq_block_size"] = form.block_size
    layers |= {f"{name}.quantization": None for name in excluded}
    with quiet_modelopt():
        from modelopt.torch.export.quant_utils import process_layer_quant_config

        quantization = process_layer_quant_config(layers)
    for described in (quantization, *quantization.get("quantized_layers", {}).values()):
        if "pre_quant_scale" in described:
            described["pre_quant_scale"] = False  # folded into the norm or layer before it
    quantization["kv_cache_quant_algo"] = "FP8" if kv_cache == "fp8" else None
    return {"producer": {"name": "modelopt", "version": modelopt_version()}, "quantization": quantization}


def algorithm_of(form: LinearFormat) -> str:
    """Return ModelOpt's ``quant_algo`` of a form, whatever its block size."""
    return next(name for name, known in ALGORITHMS.items() if replace(known, block_size=form.block_size) == form)
