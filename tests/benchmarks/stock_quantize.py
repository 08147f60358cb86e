"""ModelOpt as its own example script runs it: load, quantize, export; prints what each part took as JSON.

    python tests/benchmarks/stock_quantize.py CHECKPOINT IDS.npy OUT --scheme fp8 [--group-size 64] [--device cuda]

Nothing of edgellm takes part.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

CONFIGS = {
    "fp8": "FP8_DEFAULT_CFG",
    "int8_sq": "INT8_SMOOTHQUANT_CFG",
    "int4_awq": "INT4_AWQ_CFG",
    "nvfp4": "NVFP4_DEFAULT_CFG",
    "mxfp8": "MXFP8_DEFAULT_CFG",
}


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return the options that both quantizers take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("ids", type=Path, help="int64 [samples, length]")
    parser.add_argument("out", type=Path)
    parser.add_argument("--scheme", choices=CONFIGS, required=True)
    parser.add_argument("--group-size", type=int)
    parser.add_argument("--device", default="cpu")
    return parser


def main() -> None:
    """Quantize one checkpoint."""
    parser = make_parser(__doc__)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(json.dumps(run(options)))


def run(options: argparse.Namespace) -> dict[str, float]:
    """Return seconds of each part and peak memory in MB (10^6 bytes)."""
    clock = Clock()
    import modelopt.torch.quantization as mtq
    import torch
    from modelopt.torch.export import export_hf_checkpoint
    from transformers import AutoModelForCausalLM

    clock.lap("import")
    model: Any = AutoModelForCausalLM.from_pretrained(options.checkpoint, dtype=getattr(torch, options.dtype))
    model.to(options.device).eval()
    clock.lap("load")
    config = copy.deepcopy(getattr(mtq, CONFIGS[options.scheme]))
    if options.group_size:
        set_group_size(config, options.group_size)
    ids = torch.from_numpy(np.load(options.ids))

    def calibrate(calibrated: Any) -> None:
        with torch.no_grad():
            for batch in ids.split(options.batch):
                calibrated(batch.to(options.device), use_cache=False)

    mtq.quantize(model, config, calibrate)
    clock.lap("quantize")
    export_hf_checkpoint(model, dtype=torch.float16, export_dir=str(options.out))
    clock.lap("export")
    return clock.laps | peaks(options.device)


def peaks(device: str) -> dict[str, float]:
    """Return peak memory of this process, and of the GPU if it computes there, in MB (10^6 bytes)."""
    found = {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6}
    if device == "cuda":
        import torch

        found["peak_gpu_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return found


def set_group_size(config: dict[str, Any], group_size: int) -> None:
    """Change the block size of every weight quantizer of a configuration."""
    for entry in config["quant_cfg"]:
        blocks = entry.get("cfg", {}).get("block_sizes") if isinstance(entry.get("cfg"), dict) else None
        if blocks and -1 in blocks and "weight" in entry["quantizer_name"]:
            blocks[-1] = group_size


class Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._latest = time.perf_counter()

    def lap(self, name: str) -> None:
        """Note the seconds since the last lap."""
        now = time.perf_counter()
        self.laps[name] = now - self._latest
        self._latest = now


if __name__ == "__main__":
    main()
