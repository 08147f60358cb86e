"""The second reading of converted checkpoints: it agrees with right conversions and catches every broken importer."""

from __future__ import annotations

import numpy as np
import pytest

from edgellm_core.checkpoint.json_files import read_config
from edgellm_core.checkpoint.shards import index_tensors, read_headers
from edgellm_core.events import Reporter
from edgellm_core.pipeline.sources import open_source
from edgellm_core.quantization.importers import autoawq, compressed_tensors, conversion, four_bits, gptq, gptq_zeros
from edgellm_core.registry import ModelRegistry
from edgellm_core.verification.conversion_check import require_equal_conversion
from edgellm_core.verification.errors import ConversionDiffersError
from tests.corpus import packed
from tests.corpus.packed import AWQ, FOUR_BITS, GPTQ, compressed_settings

FREE = {"sym": False}
SOURCES = {
    "gptq": lambda folder: packed.packed(folder, GPTQ | FREE, packed.gptq, symmetric=False),
    "gptq_v2": lambda folder: packed.packed(
        folder, GPTQ | FREE | {"format": "gptq_v2"}, packed.gptq_v2, symmetric=False
    ),
    "gptq-symmetric": lambda folder: packed.packed(folder, GPTQ, packed.gptq),
    "gptq-order": lambda folder: packed.packed(folder, GPTQ, packed.gptq, shuffled=True),
    "awq": lambda folder: packed.packed(folder, AWQ, packed.awq, symmetric=False),
    "compressed": lambda folder: packed.packed(
        folder, compressed_settings("pack-quantized", FOUR_BITS | {"symmetric": False}), packed.compressed,
        symmetric=False,
    ),
    "compressed-order": lambda folder: packed.packed(
        folder, compressed_settings("pack-quantized", FOUR_BITS | {"actorder": "group"}), packed.compressed,
        shuffled=True,
    ),
    "fp8": packed.float8,
    "fp8-channel": lambda folder: packed.float8(folder, by_channel=True, cache=True),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "cache"))


def converted(folder, name):
    source = SOURCES[name](folder).source
    return source, open_source(str(source), registry=ModelRegistry.load(), report=Reporter("checkpoint"))


@pytest.mark.parametrize("name", SOURCES)
def test_right_conversions_equal_the_second_reading(tmp_path, name):
    _source, checkpoint = converted(tmp_path, name)
    assert (checkpoint.directory / "hf_quant_config.json").is_file()


def reversed_nibbles(unpack):
    return lambda numbers, *order: unpack(numbers, *order).reshape(*numbers.shape[:-1], -1)[..., ::-1].copy()


def each_pair(unpack):
    """Exchange the two numbers of a byte."""

    def wrong(numbers, *order):
        return unpack(((numbers & 0x0F0F0F0F) << 4) | ((numbers >> 4) & 0x0F0F0F0F), *order)

    return wrong


def rows_in_columns(layer):
    """Read scales as if they lay the other way round."""

    def wrong(**fields):
        scales = fields["scales"]
        fields["scales"] = lambda: (s := scales()).T.reshape(s.shape)
        return layer(**fields)

    return wrong


def without_zeros(layer):
    return lambda **fields: layer(**fields | {"zeros": np.full_like(fields["zeros"], 8)})


MUTATIONS = {
    "the zero points of the first format as they are": ("gptq", lambda m: m.setitem(gptq_zeros.OFFSETS, "gptq", 0)),
    "the zero points of the second format plus one": ("gptq_v2", lambda m: m.setitem(gptq_zeros.OFFSETS, "gptq_v2", 1)),
    "GPTQ's pairs of codes exchanged": ("gptq", lambda m: m.setattr(gptq, "unpack_rows", each_pair(gptq.unpack_rows))),
    "GPTQ's pairs of zero points exchanged": (
        "gptq", lambda m: m.setattr(gptq_zeros, "unpack_columns", each_pair(gptq_zeros.unpack_columns))
    ),
    "g_idx dropped": ("gptq-order", lambda m: m.setattr(gptq, "input_order", lambda *_a, **_k: None)),
    "g_idx inverted": (
        "gptq-order",
        lambda m: m.setattr(gptq, "input_order", lambda *a, **k: np.argsort(four_bits.input_order(*a, **k))),
    ),
    "GPTQ's scales transposed": (
        "gptq-symmetric", lambda m: m.setattr(gptq, "FourBitLayer", rows_in_columns(gptq.FourBitLayer))
    ),
    "AWQ in order": ("awq", lambda m: m.setattr(autoawq, "ORDER", (0, 1, 2, 3, 4, 5, 6, 7))),
    "AWQ in the inverse order": ("awq", lambda m: m.setattr(autoawq, "ORDER", (0, 4, 1, 5, 2, 6, 3, 7))),
    "AWQ without zero points": (
        "awq", lambda m: m.setattr(autoawq, "FourBitLayer", without_zeros(autoawq.FourBitLayer))
    ),
    "AWQ's scales transposed": (
        "awq", lambda m: m.setattr(autoawq, "FourBitLayer", rows_in_columns(autoawq.FourBitLayer))
    ),
    "pairs written in the other order": (
        "awq", lambda m: m.setattr(four_bits, "pair_outputs", lambda c: c[1::2] | (c[::2] << np.uint8(4)))
    ),
    "signed and unsigned confused": (
        "gptq-symmetric",
        lambda m: m.setattr(four_bits.FourBitLayer, "_weight", lambda layer: four_bits.pair_outputs(layer.codes())),
    ),
    "compressed-tensors' codes backwards": (
        "compressed",
        lambda m: m.setattr(compressed_tensors, "unpack_columns", reversed_nibbles(compressed_tensors.unpack_columns)),
    ),
    "compressed-tensors' zero points as middle": (
        "compressed",
        lambda m: m.setattr(compressed_tensors, "FourBitLayer", without_zeros(compressed_tensors.FourBitLayer)),
    ),
    "weight_g_idx dropped": (
        "compressed-order", lambda m: m.setattr(compressed_tensors, "input_order", lambda *_a, **_k: None)
    ),
    "keys' and values' scales exchanged": (
        "fp8-channel",
        lambda m: m.setattr(compressed_tensors, "CACHE_SCALES", {
            ".self_attn.k_scale": ".self_attn.v_proj.v_scale", ".self_attn.v_scale": ".self_attn.k_proj.k_scale",
        }),
    ),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_broken_importers_are_caught(tmp_path, monkeypatch, mutation):
    name, install = MUTATIONS[mutation]
    install(monkeypatch)
    with pytest.raises(ConversionDiffersError, match="must equal a second reading of it by its published format"):
        converted(tmp_path, name)
    assert not list((tmp_path / "cache" / "checkpoints").glob("*"))


@pytest.mark.parametrize("name", ["gptq", "fp8"])
@pytest.mark.parametrize(("edit", "problem"), [
    (lambda new: new.pop("model.norm.weight"), "'model.norm.weight' is missing in it"),
    (lambda new: new.update(stray=new["model.norm.weight"]), "'stray' belongs to nothing in the source"),
    (lambda new: new.update({"lm_head.weight": new["model.embed_tokens.weight"]}),
     "'lm_head.weight' has another value"),
    (lambda new: [new.pop(key) for key in list(new) if "layers.1.mlp.up_proj" in key],
     "'model.layers.1.mlp.up_proj' is no quantized layer of it"),
])  # fmt: skip
def test_what_is_lost_or_added_is_named(tmp_path, monkeypatch, name, edit, problem):
    all_tensors = conversion._all_tensors

    def broken(tensors, imported):
        edit(new := all_tensors(tensors, imported))
        return new

    monkeypatch.setattr(conversion, "_all_tensors", broken)
    with pytest.raises(ConversionDiffersError, match=problem):
        converted(tmp_path, name)


def test_another_input_scale_is_named(tmp_path):
    source, checkpoint = converted(tmp_path, "fp8")
    tensors = index_tensors(read_headers(source))
    entry = tensors["model.layers.0.mlp.up_proj.input_scale"]
    with entry.file.open("r+b") as stream:
        stream.seek(entry.offset)
        stream.write(np.float32(3).tobytes())
    with pytest.raises(ConversionDiffersError, match=r"'model.layers.0.mlp.up_proj.input_scale' has another value"):
        require_equal_conversion(checkpoint.directory, source, read_config(source), tensors, Reporter("checkpoint"))
