"""A comparison that shares no code with the gate: edgellm's runtime against transformers, on long prompts and answers.

The graph reads a prompt whole, in two chunks, and as the longer row of a batch with left padding; transformers reads it
whole, alone and without a cache. Greedy answers come from ``generate`` on both sides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from edgellm_core import load_bundle
from edgellm_core.runtime.generate import answer
from edgellm_core.runtime.text import TextGenerator

if TYPE_CHECKING:
    from pathlib import Path


def load_original(directory: Path) -> Any:
    """Return transformers' model in float32, by none of our code."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def prompts(vocab_size: int, lengths: tuple[int, ...]) -> list[list[int]]:
    """Return random prompts of these lengths."""
    generator = np.random.default_rng(7)
    return [[int(token) for token in generator.integers(3, vocab_size, length)] for length in lengths]


def largest_error(session: Any, model: Any, rows: list[list[int]]) -> float:
    """Return the largest ``max |a - b| / max |b|`` of all prompts, read whole, in chunks and with padding."""
    errors = []
    for row in rows:
        with torch.inference_mode():
            wanted = model(input_ids=torch.tensor([row]), use_cache=False).logits.float().numpy()[0]
        readings = [_read(session, row, [len(row)]), _padded(session, row)]
        if len(row) > 3:
            readings.append(_read(session, row, [len(row) // 2, 1, len(row) - len(row) // 2 - 1]))
        errors += [float(np.abs(found - wanted).max() / np.abs(wanted).max()) for found in readings]
    return max(errors)


def _read(session: Any, row: list[int], chunks: list[int]) -> Any:
    states, start, logits = session.initial_states(1), 0, []
    for size in chunks:
        ids = np.array([row[start : start + size]])
        positions = np.arange(start, start + size)[None]
        found, states = session.run(ids, np.ones((1, start + size), np.int64), positions, states)
        logits.append(found[0])
        start += size
    return np.concatenate(logits)


def _padded(session: Any, row: list[int]) -> Any:
    """Return the logits of a row that is the shorter one of a batch."""
    pad = 2
    ids = np.array([[5] * (len(row) + pad), [0] * pad + row])
    mask = np.array([[1] * (len(row) + pad), [0] * pad + [1] * len(row)])
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    found, _ = session.run(ids, mask, positions, session.initial_states(2))
    return found[1, pad:]


def answers(
    bundle: Path, model: Any, rows: list[list[int]], new_tokens: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Return the greedy answers of the bundle and of transformers' ``generate``."""
    text = TextGenerator(load_bundle(bundle), threads=1)
    mine, theirs = [], []
    for row in rows:
        mine.append(list(answer(text.session, row, text.runtime, max_new_tokens=new_tokens)))
        with torch.inference_mode():
            ids = torch.tensor([row])
            output = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, pad_token_id=0
            )
        answered = output[0, len(row) :].tolist()
        ends = model.generation_config.eos_token_id
        stops = ends if isinstance(ends, list) else [ends]
        theirs.append(answered[:-1] if answered[-1] in stops else answered)
    return mine, theirs
