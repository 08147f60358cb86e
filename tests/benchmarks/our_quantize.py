"""edgellm's quantization on given token ids; prints what each part took as JSON, like stock_quantize.py.

python tests/benchmarks/our_quantize.py CHECKPOINT IDS.npy OUT --scheme fp8 [--group-size 64] [--device cuda]
"""

from __future__ import annotations

import argparse
import json
import resource
from pathlib import Path

import numpy as np
from stock_quantize import CONFIGS, Clock


def main() -> None:
    """Quantize one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("ids", type=Path, help="int64 [samples, length]")
    parser.add_argument("out", type=Path)
    parser.add_argument("--scheme", choices=CONFIGS, required=True)
    parser.add_argument("--group-size", type=int)
    parser.add_argument("--device", default="cpu")
    print(json.dumps(run(parser.parse_args())))


def run(options: argparse.Namespace) -> dict[str, float]:
    """Return seconds of each part and peak memory in MB (10^6 bytes)."""
    clock = Clock()
    import torch

    from edgellm_core.calibration.request import QuantizationRequest
    from edgellm_core.calibration.run import quantize_checkpoint
    from edgellm_core.checkpoint.source import open_checkpoint
    from edgellm_core.events import Reporter
    from edgellm_core.host import PluginHost
    from edgellm_core.quantization.schemes import find_scheme
    from edgellm_core.registry import ModelRegistry
    from edgellm_core.tracing.configuration import load_config

    report = Reporter("quantize")
    checkpoint = open_checkpoint(str(options.checkpoint), registry=ModelRegistry.load(), report=report)
    config = load_config(checkpoint.directory, checkpoint.config, PluginHost.load().select(checkpoint.config).family)
    request = QuantizationRequest(
        scheme=find_scheme(options.scheme, {}), group_size=options.group_size, device=options.device
    )
    ids = torch.from_numpy(np.load(options.ids))
    clock.lap("import")
    quantize_checkpoint(checkpoint, config, request, ids, options.out, fingerprint="", report=report)
    clock.lap("quantize and export")
    taken = clock.laps | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6}
    if options.device == "cuda":
        taken["peak_gpu_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return taken


if __name__ == "__main__":
    main()
