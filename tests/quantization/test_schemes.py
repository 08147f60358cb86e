"""The core's schemes: each names a form that ModelOpt's checkpoint has, and unknown names are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgellm_core.contract import QuantizationScheme
from edgellm_core.errors import UnknownNameError
from edgellm_core.quantization.formats import ALGORITHMS
from edgellm_core.quantization.schemes import BUILT_IN, find_scheme


@pytest.mark.parametrize(
    ("name", "algorithm", "blocks"),
    [
        ("fp8", "FP8", ()),
        ("int8_sq", "W8A8_SQ_PER_CHANNEL", ()),
        ("int4_awq", "W4A16_AWQ", (128, 64, 32)),
        ("nvfp4", "NVFP4", (16,)),
        ("mxfp8", "MXFP8", (32,)),
    ],
)
def test_every_scheme_stores_a_form_of_modelopt(name, algorithm, blocks):
    scheme = find_scheme(name, {})
    assert scheme.block_sizes == blocks
    for block in blocks or (0,):
        assert scheme.linear_format(block) == replace(ALGORITHMS[algorithm], block_size=block)


def test_a_scheme_of_a_plugin_wins():
    class OwnFp8(QuantizationScheme):
        name = "fp8"

    assert isinstance(find_scheme("fp8", {"fp8": OwnFp8}), OwnFp8)


def test_an_unknown_scheme_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match=r"Unknown quantization scheme 'int4_agw'. Did you mean 'int4_awq'\?"):
        find_scheme("int4_agw", {})


def test_every_scheme_of_the_core_is_listed_under_its_name():
    assert {name: scheme.name for name, scheme in BUILT_IN.items()} == {name: name for name in BUILT_IN}
