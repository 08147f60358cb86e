"""Runs the exporter of NVIDIA's wheel, in its own Python: ``export_with_wheel.py CHECKPOINT OUT [CHECKPOINT OUT…]``.

Prints one line of JSON for each pair: ``{"seconds": …, "error": null or a text}``. ``--pack`` packs weights,
``--ranges`` prints what its engine builder makes of limits.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
import traceback
from pathlib import Path


def export(checkpoint: str, out: str) -> str | None:
    """Export a checkpoint; return what went wrong."""
    from tensorrt_edgellm import AutoModel, export_onnx

    try:
        Path(out).mkdir(parents=True)
        with contextlib.redirect_stdout(sys.stderr):
            model = AutoModel.from_pretrained(checkpoint, device="cpu")
            export_onnx(model, str(Path(out, "model.onnx")), model_dir=checkpoint)
    except Exception as error:  # noqa: BLE001 - whatever the exporter raises is its answer
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return None


def pack(arrays: str, out: str) -> None:
    """Pack each array of an npz file, numbers from 0 to 15 ``[outputs, inputs]``, with the wheel's packer."""
    import numpy as np
    from tensorrt_edgellm.checkpoint.repacking import repack_to_cutedsl_fragment

    with np.load(arrays) as stored:
        np.savez(out, **{name: repack_to_cutedsl_fragment(stored[name]) for name in stored.files})


def ranges(batch: str, input_len: str, capacity: str) -> dict[str, object]:
    """Return the ranges of both profiles, and the pages of a sequence and of the pool."""
    from types import SimpleNamespace

    from experimental.builder.core import contracts, ragged

    limits = SimpleNamespace(
        max_batch_size=int(batch), max_input_len=int(input_len), resolved_spec_role=contracts.SpecRole.NONE
    )
    profiles = [vars(profile) for profile in ragged.decoder_profile_ranges(limits)]
    return {"profiles": profiles, "pages": ragged.checked_kv_pool_pages(int(batch), int(capacity))}


def pack_experts(arrays: str, out: str) -> None:
    """Pack numbers from 0 to 15 ``name`` ``[experts, outputs, inputs]`` and scales ``name.scales`` like the wheel."""
    import numpy as np
    import torch
    from tensorrt_edgellm.checkpoint.repacking import pack_int4_awq_marlin

    found = {}
    with np.load(arrays) as stored:
        for name in [name for name in stored.files if not name.endswith(".scales")]:
            numbers, scales = (torch.from_numpy(stored[key]) for key in (name, f"{name}.scales"))
            words, turned = pack_int4_awq_marlin(numbers.to(torch.int16), scales, numbers.shape[2] // scales.shape[2])
            found |= {name: words.view(torch.int8).numpy(), f"{name}.scales": turned.numpy()}
    np.savez(out, **found)


if __name__ == "__main__":
    if sys.argv[1] in ("--pack", "--pack-experts"):
        (pack if sys.argv[1] == "--pack" else pack_experts)(*sys.argv[2:])
    elif sys.argv[1] == "--ranges":
        print(json.dumps(ranges(*sys.argv[2:])))
    else:
        for pair in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
            began = time.monotonic()
            problem = export(*pair)
            print(json.dumps({"seconds": round(time.monotonic() - began, 1), "error": problem}), flush=True)
