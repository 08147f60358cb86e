"""Strategies that damage sound input: JSON by its keys and values, everything else by its bytes."""

from __future__ import annotations

import copy
import json
import math

from hypothesis import strategies as st

ODD = st.sampled_from([
    None, True, False, 0, -1, 1, 2, 3, 10**9, 2**31, 2**64, 10**30, 1.5, -0.0, math.nan, math.inf, -math.inf, 1e308,
    "", "foo", "1", "\0", "\ud800", "../x", "/etc/passwd", "a" * 5000, [], {}, [[]], [None], [5], ["a", 1], {"": {}},
    {"g": 5}, [0, 0], [[[[]]]], {"rope_type": "foo"}, {"quant_method": "awq"}, {"quant_method": []},
    {"quant_algo": "FP8"}, {"Regex": "("}, {"type": "Sequence"}, "{{ 'a' * 10**11 }}", "{% for x in x %}",
])  # fmt: skip
"""Values that some reader once took for what they are not."""

KEYS = st.sampled_from([
    "text_config", "quantization_config", "rope_scaling", "rope_parameters", "layer_types", "num_experts", "auto_map",
    "sliding_window", "generation_config", "quantization", "producer", "config_groups", "quantized_layers", "bits",
    "group_size", "exclude_modules", "kv_cache_quant_algo", "added_tokens", "chat_template", "__class__", "",
])  # fmt: skip


def places(value, path=()):
    """Yield the path of every value in a JSON value."""
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from places(inner, (*path, key))


@st.composite
def damaged_json(draw, text):
    """Return the text of a JSON value in which some values are others, missing or new."""
    value = json.loads(text)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(value))))
        if not path:
            if not isinstance(value, dict):
                break
            value = {**value, draw(KEYS): copy.deepcopy(draw(ODD))}
            continue
        owner = value
        for key in path[:-1]:
            owner = owner[key]
        if draw(st.booleans()):
            owner[path[-1]] = copy.deepcopy(draw(ODD))
        else:
            del owner[path[-1]]
    return json.dumps(value).encode()


@st.composite
def damaged_bytes(draw, content):
    """Return bytes of which some are others, missing, twice or new."""
    result = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(result)))
        length = draw(st.sampled_from([0, 1, 4, 8, 64, len(result)]))
        piece = bytes(result[start : start + length])
        new = draw(
            st.binary(max_size=9)
            | st.sampled_from(
                [b"", piece * 2, b"\xff" * length, bytes(length), b"\xff\xff\xff\x7f", b"[" * 99, b"{", b'"']
            )
        )
        result[start : start + length] = new
    return bytes(result)
