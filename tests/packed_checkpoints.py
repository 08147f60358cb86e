"""Checkpoints of other tools, packed bit by bit from their published layouts."""

from __future__ import annotations

import json

import numpy as np
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

AWQ_PLACES = {0: 0, 1: 4, 2: 1, 3: 5, 4: 2, 5: 6, 6: 3, 7: 7}
"""Output within eight → its place in AutoAWQ's integer, counted in four bits from the lowest."""


def integer(places):
    """Return a signed 32-bit integer from ``place → four-bit number``."""
    total = sum(int(number) << (4 * place) for place, number in places.items())
    return total - (1 << 32) if total >= 1 << 31 else total


def awq_integers(numbers):
    """Pack ``[rows, outputs]`` eight outputs at a time."""
    rows, outputs = numbers.shape
    packed = np.zeros((rows, outputs // 8), np.int32)
    for row in range(rows):
        for column in range(outputs // 8):
            eight = numbers[row, 8 * column : 8 * column + 8]
            packed[row, column] = integer({AWQ_PLACES[k]: eight[k] for k in range(8)})
    return packed


def plain_integers(numbers):
    """Pack ``[rows, columns]`` eight columns at a time, the first in the lowest bits."""
    rows, columns = numbers.shape
    packed = np.zeros((rows, columns // 8), np.int32)
    for row in range(rows):
        for column in range(columns // 8):
            packed[row, column] = integer(dict(enumerate(numbers[row, 8 * column : 8 * column + 8])))
    return packed


def random_layer(rng, outputs, inputs, groups, *, symmetric, lowest_zero=0):
    """Return codes ``[out, in]``, zero points and float16 scales ``[out, groups]``."""
    codes = rng.integers(0, 16, (outputs, inputs))
    zeros = np.full((outputs, groups), 8) if symmetric else rng.integers(lowest_zero, 16, (outputs, groups))
    scales = (rng.integers(128, 256, (outputs, groups)) / 2**15).astype(np.float16)  # exact in bfloat16 too
    return codes, zeros, scales


def write_checkpoint(folder, config, tensors, quantization):
    """Write config.json and model.safetensors; tensors are numpy arrays, or torch's where numpy lacks the type."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    if all(isinstance(tensor, np.ndarray) for tensor in tensors.values()):
        save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, folder / "model.safetensors")
    else:
        arrays = {n: np.ascontiguousarray(t) for n, t in tensors.items() if isinstance(t, np.ndarray)}
        tensors = tensors | {name: torch.from_numpy(array) for name, array in arrays.items()}
        save_torch(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
