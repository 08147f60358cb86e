"""Which cases a selection means, and what is refused."""

from __future__ import annotations

import re

import pytest

from edgellm_core.errors import UnknownNameError
from edgellm_core.matrix import MatrixFileError, MatrixSyntaxError, parse
from edgellm_core.matrix.errors import NoEntriesError, OwnerlessEntryError
from edgellm_core.matrix.selection import MatrixCase, select_cases

SMOL = "smollm2-135m-instruct-fp16-mxsl1024-mxbs1-mxil512"


def test_all_families_and_tiers_are_meant_unless_they_are_named(load, registry):
    everything = select_cases(load(), registry)
    assert {"llama", "qwen2", "qwen3"} <= {case.family for case in everything}
    assert {case.tier for case in everything} == {"l0", "l1"}
    assert select_cases(load(), registry, tier="l0") == [case for case in everything if case.tier == "l0"]
    assert select_cases(load(), registry, family="llama") == [case for case in everything if case.family == "llama"]


def test_an_entry_is_found_in_whatever_order_its_tokens_are(load, registry):
    entry = parse("tiny-fp16-mxsl64-mxbs2-mxil16")
    found = select_cases(load(), registry, family="qwen3", entry="tiny-fp16-mxil16-mxbs2-mxsl64")
    assert found == [MatrixCase(family="qwen3", tier="l0", entry=entry)]


def test_an_entry_that_no_file_has_belongs_to_the_family_that_is_named(load, registry):
    found = select_cases(load(), registry, family="qwen3", entry="tiny-bf16-mxsl32")
    assert found == [MatrixCase(family="qwen3", tier=None, entry=parse("tiny-bf16-mxsl32"))]


@pytest.mark.parametrize("model", ["qwen2.5-0.5b-instruct", "Qwen2.5-0.5B-Instruct"])
def test_an_entry_that_no_file_has_belongs_to_the_family_of_its_model(load, registry, model):
    found = select_cases(load(), registry, entry=f"{model}-bf16")
    assert [(case.family, case.tier) for case in found] == [("qwen2", None)]


@pytest.mark.parametrize(
    ("selection", "error", "problem"),
    [
        ({"tier": "l2"}, UnknownNameError, "Unknown tier 'l2'. Available: l0, l1."),
        ({"family": "lama"}, UnknownNameError, "Unknown family 'lama'. Did you mean 'llama'?"),
        ({"entry": "tiny-fp16-mxls64"}, MatrixSyntaxError, "Did you mean 'mxsl64'?"),
        ({"entry": "smollm2-135m-fp16"}, UnknownNameError, "Unknown model 'smollm2-135m'."),
        ({"entry": "tiny-fp32-mxsl7"}, OwnerlessEntryError, "Add --family NAME to say whose tiny checkpoint it is."),
        ({"entry": SMOL, "tier": "l0"}, NoEntriesError, f"(--tier l0 --entry {SMOL})"),
        ({"family": "generic"}, NoEntriesError, "(--family generic)"),
    ],
)
def test_a_selection_of_nothing_says_why(load, registry, selection, error, problem):
    with pytest.raises(error, match=re.escape(problem)):
        select_cases(load(), registry, **selection)


def test_families_of_one_folder_share_a_file(load, registry, pack, tiny_config):
    folder = pack({"first": tiny_config, "second": tiny_config}, "l0: [{entry: tiny-fp32, xfail: why}]\n")
    for family in ("first", "second"):
        expected = [MatrixCase(family=family, tier="l0", entry=parse("tiny-fp32"), xfail="why")]
        assert select_cases(load(folder), registry, family=family) == expected


@pytest.mark.parametrize(
    ("matrix", "problem"),
    [
        (f"l1:\n  - {SMOL}\n", "line 2: 'smollm2-135m-instruct' is a model of family 'llama'. Move the entry"),
        ("l1:\n  - smollm-fp16\n", "line 2: Unknown model 'smollm'."),
    ],
)
def test_a_file_may_only_hold_models_of_its_families(load, registry, pack, tiny_config, matrix, problem):
    folder = pack({"mine": tiny_config}, matrix)
    with pytest.raises(MatrixFileError, match=re.escape(f"{folder / 'matrix.yaml'}, {problem}")):
        select_cases(load(folder), registry)


def test_a_wrong_file_does_not_disturb_the_selection_of_another_family(load, registry, pack, tiny_config):
    folder = pack({"mine": tiny_config}, "l0: [tiny]\n")
    assert select_cases(load(folder), registry, family="llama")


def test_a_wrong_file_is_told_and_left_out_where_all_families_are_meant(load, registry, pack, tiny_config):
    host, told = load(pack({"mine": tiny_config}, "l0: [tiny]\n")), []
    cases = select_cases(host, registry, skipped=told.append)
    assert cases == select_cases(load(), registry)
    assert len(told) == 1
    assert told[0].startswith("Skipped: ")
    assert "matrix.yaml" in told[0]
    with pytest.raises(MatrixFileError, match=r"matrix\.yaml"):
        select_cases(host, registry, family="mine", skipped=told.append)


SCHEME = """
from edgellm_core.contract import QuantizationScheme
from edgellm_core.hookspecs import hookimpl
from edgellm_core.quantization.formats import FP8


class Tiny8(QuantizationScheme):
    name = "tiny8"

    def linear_format(self, block_size):
        return FP8


@hookimpl
def edgellm_register_schemes():
    return [Tiny8]
"""


def test_a_scheme_of_a_plugin_is_a_precision_of_the_matrix(load, registry, pack, tiny_config, tmp_path):
    folder = pack({"mine": tiny_config}, "l0: [tiny-tiny8-lmtiny8-fp8kv-mxsl64]\n")
    (tmp_path / "scheme").mkdir()
    (tmp_path / "scheme" / "tiny8.py").write_text(SCHEME)
    [case] = select_cases(load(folder, tmp_path / "scheme"), registry, family="mine")
    assert case.entry.quantizes
    assert case.entry.unavailable() == []
    with pytest.raises(MatrixFileError, match="MODEL must be followed by a precision"):
        select_cases(load(folder), registry, family="mine")
