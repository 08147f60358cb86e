"""Runs one model type through the real pipeline: ``python -m tests.coverage.one_type TYPE RECORD.json``.

The bundle is then compared once more, without the gate's code: a batch with left padding through the runtime, against
transformers on each row alone, without padding and without a cache.
"""

from __future__ import annotations

import inspect
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

LENGTHS: Final = (13, 21)
"""Tokens of the two prompts: more than the tiny windows and than the context at which a tiny longrope switches, since
transformers then computes the short row alone with other factors than inside a batch with the long one."""

TOLERANCES: Final = {"fp32": 1e-4, "fp16": 1e-2}
"""Precision of each build of a type → largest error; the second build takes the proof of long lengths from the first.

A float16 graph stores some weights as factors (Gemma's ``1 + w``) that round otherwise than ``w``. The gate, which
compares with the weights as they are stored, allows 1e-4 there too.
"""

STEPS: Final = 3
"""Tokens read one by one over the cache after the prompts."""

SHOWN: Final = 240
"""Longest reason that is kept."""


def run_type(model_type: str, folder: Path) -> dict[str, Any]:
    """Build one type in ``folder``, compare, and return its record: status, error, family, reason."""
    from edgellm_core import build
    from edgellm_core.errors import EdgellmError
    from edgellm_core.testing.checkpoints import write_tiny_checkpoint
    from edgellm_core.verification.errors import VerificationFailedError
    from tests.coverage.configs import tiny_config

    checkpoint = write_tiny_checkpoint(folder / "checkpoint", tiny_config(model_type))
    errors: dict[str, float] = {}
    for precision in TOLERANCES:
        try:
            bundle = build(checkpoint, folder / precision, precision=precision, engine="none", verify="full")
        except EdgellmError as error:
            status = "caught" if isinstance(error, VerificationFailedError) else "refused"
            reason = f"--precision {precision}: {error}" if errors else str(error)
            return {"status": status, "reason": shorten(reason, folder)}
        found = largest_error(bundle.model_path, checkpoint, rounded=precision == "fp16")
        errors[precision] = float(f"{found:.1e}")
    status = "right" if all(error <= TOLERANCES[precision] for precision, error in errors.items()) else "wrong"
    worst = max(errors, key=lambda precision: errors[precision] / TOLERANCES[precision])
    shown = errors["fp32"] if status == "right" else errors[worst]
    family = bundle.manifest.family.name
    return {"status": status, "max_rel_err": shown, "family": family, "precisions": list(TOLERANCES)}


def shorten(reason: str, folder: Path) -> str:
    """Return a message in one line, without the folder, and not too long."""
    line = " ".join(reason.replace(f"{folder}/", "").replace(str(folder), "").split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 1].rstrip()}…"


def largest_error(model_path: Path, checkpoint: Path, *, rounded: bool = False) -> float:
    """Return ``max |a - b| / max |b|`` of the worse row: ``a`` the graph's logits, ``b`` those of transformers.

    With ``rounded`` the graph is a float16 one, whose types are raised to float32: then it and transformers with its
    parameters rounded to float16 compute the same. ONNX Runtime's kernels for float16 on the CPU round sums otherwise
    than any GPU.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager")
    model.eval()
    if rounded:
        model_path = raised(model_path)
        for parameter in model.parameters():
            parameter.data = parameter.data.half().float()
    draw = np.random.default_rng(1)
    size = int(model.config.get_text_config().vocab_size)
    rows = [[int(token) for token in draw.integers(3, size, length + STEPS)] for length in LENGTHS]
    errors = []
    one_token = takes_one_token(model_path)
    for row, graph in zip(rows, graph_logits(model_path, rows), strict=True):
        wanted = one_by_one(model, row) if one_token else at_once(model, row)
        errors.append(float(np.abs(graph - wanted).max() / np.abs(wanted).max()))
    return float("inf") if np.isnan(errors).any() else max(errors)


def raised(model_path: Path) -> Path:
    """Write a float16 graph with its types raised to float32 beside it; it reads the same weights."""
    import onnx

    from edgellm_core.runtime.float32_twin import FLOAT16, raise_to_float32

    model = onnx.load(str(model_path), load_external_data=False)
    raise_to_float32(model, FLOAT16)
    path = model_path.with_name("raised.onnx")
    onnx.save(model, str(path))
    return path


def takes_one_token(model_path: Path) -> bool:
    """Say whether a graph reads a prompt token by token."""
    import onnx

    inputs = onnx.load(str(model_path), load_external_data=False).graph.input
    return any(v.name == "input_ids" and v.type.tensor_type.shape.dim[1].dim_value == 1 for v in inputs)


def at_once(model: Any, row: Sequence[int]) -> np.ndarray[Any, Any]:
    """Return transformers' logits [tokens, vocab] of a text that it reads whole, without a cache."""
    import torch

    with torch.no_grad():
        logits: np.ndarray[Any, Any] = model(input_ids=torch.tensor([row]), use_cache=False).logits[0].numpy()
    return logits


def one_by_one(model: Any, row: Sequence[int]) -> np.ndarray[Any, Any]:
    """Return transformers' logits [tokens, vocab] of a text that it reads token by token, as the graph does.

    Its code for many tokens differs from that for one by more than rounding in zamba2 and nemotron_h. Positions are
    passed as ``generate`` does: by itself Bamba takes them from its first layer, which counts no tokens.
    """
    import torch

    taken = inspect.signature(model.forward).parameters
    name = "cache_params" if "cache_params" in taken else "past_key_values"
    cache, found = None, []
    for position, token in enumerate(row):
        given = {"position_ids": torch.tensor([[position]])} if "position_ids" in taken else {}
        with torch.no_grad():
            output = model(input_ids=torch.tensor([[token]]), use_cache=True, **{name: cache}, **given)
        cache = getattr(output, name)
        found.append(output.logits[0].numpy())
    return np.concatenate(found)


def graph_logits(model_path: Path, rows: Sequence[Sequence[int]]) -> list[np.ndarray[Any, Any]]:
    """Return the graph's logits of each row [tokens, vocab]: a padded batch, then ``STEPS`` tokens one by one."""
    from edgellm_core.runtime.session import DecoderSession

    session = DecoderSession(model_path)
    longest = max(map(len, rows))
    ids = np.zeros((len(rows), longest), np.int64)
    mask = np.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, longest - len(row) :] = row
        mask[index, longest - len(row) :] = 1
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    states: Any = session.initial_states(len(rows))
    parts = []
    start = 0
    for end in range(longest - STEPS, longest + 1):
        part, states = session.run(ids[:, start:end], mask[:, :end], positions[:, start:end], states)
        parts.append(part)
        start = end
    logits = np.concatenate(parts, axis=1)
    return [logits[index, longest - len(row) :] for index, row in enumerate(rows)]


def main(model_type: str, record: str) -> None:
    """Write the record of one type."""
    with tempfile.TemporaryDirectory() as name:
        Path(record).write_text(json.dumps(run_type(model_type, Path(name))), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
