"""edgellm's quantization on given token ids; prints what each part took as JSON, like stock_quantize.py.

python tests/benchmarks/our_quantize.py CHECKPOINT IDS.npy OUT --scheme fp8 [--group-size 64] [--device cuda]
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from stock_quantize import Clock, make_parser, peaks

if TYPE_CHECKING:
    import argparse


def main() -> None:
    """Quantize one checkpoint."""
    print(json.dumps(run(make_parser(__doc__).parse_args())))


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
    return clock.laps | peaks(options.device)


if __name__ == "__main__":
    main()
