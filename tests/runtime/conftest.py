"""Numpy's own reading of the small decoder, step for step, independent of ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from edgellm_core.testing.decoder_graph import EPSILON, DecoderShape, write_decoder_graph

SHAPE = DecoderShape()


def rms_norm(x, weight):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON) * weight


def rotate(x, position_ids, weights):
    cos, sin = weights["rope.cos"][position_ids][:, None], weights["rope.sin"][position_ids][:, None]
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def reference_logits(weights, input_ids, attention_mask, position_ids, shape=SHAPE):
    """Logits of a whole sequence without cache, in float64."""
    weights = {name: value.astype(np.float64) for name, value in weights.items()}
    batch, length = input_ids.shape
    grid = np.arange(length)
    causal, itself = grid[None, :] <= grid[:, None], grid[None, :] == grid[:, None]
    mask = (causal[None] & attention_mask.astype(bool)[:, None, :]) | itself[None]
    hidden = weights["embed.weight"][input_ids]
    for layer in range(shape.layers):
        part = {name: weights[f"layers.{layer}.{name}.weight"] for name in ("norm", "q", "k", "v", "o")}
        normed = rms_norm(hidden, part["norm"])

        def split(name, heads, normed=normed, part=part):
            return (normed @ part[name].T).reshape(batch, length, heads, shape.head_dim).transpose(0, 2, 1, 3)

        group = shape.heads // shape.kv_heads
        query = rotate(split("q", shape.heads), position_ids, weights)
        key = rotate(split("k", shape.kv_heads), position_ids, weights).repeat(group, axis=1)
        value = split("v", shape.kv_heads).repeat(group, axis=1)
        scores = query @ key.swapaxes(-1, -2) / shape.head_dim**0.5
        scores = np.where(mask[:, None], scores, -np.inf)
        chances = np.exp(scores - scores.max(-1, keepdims=True))
        chances /= chances.sum(-1, keepdims=True)
        hidden = hidden + (chances @ value).transpose(0, 2, 1, 3).reshape(batch, length, -1) @ part["o"].T
    return rms_norm(hidden, weights["norm.weight"]) @ weights["head.weight"].T


@pytest.fixture(scope="session")
def decoder(tmp_path_factory):
    """Path and weights of a float32 decoder."""
    path = tmp_path_factory.mktemp("decoder") / "model.onnx"
    return path, write_decoder_graph(path, SHAPE)


@pytest.fixture(scope="session")
def reference():
    return reference_logits
