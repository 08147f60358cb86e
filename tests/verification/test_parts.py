"""Parts, the memory that they take, and how a diverging one is chosen and named."""

from __future__ import annotations

import pytest

from edgellm_core.errors import UnknownNameError
from edgellm_core.events import Reporter
from edgellm_core.verification import budget
from edgellm_core.verification.bisect import STANDS_OUT, choose_part, part_name
from edgellm_core.verification.budget import FIXED_BYTES, choose_parts, needed_bytes
from edgellm_core.verification.errors import ComparisonMemoryError
from edgellm_core.verification.gate import keep_every_kind
from edgellm_core.verification.original import open_original
from edgellm_core.verification.parts import Part, plan_parts, whole
from edgellm_core.verification.subject import make_subject
from edgellm_core.verification.tolerances import LOCAL_NOISE, QUANTIZED, TOLERANCES, tolerance_of


@pytest.mark.parametrize(
    ("sizes", "largest", "parts"),
    [
        ([0, 4, 4, 4, 1], 100, [(-1, 4)]),
        ([0, 4, 4, 4, 1], 8, [(-1, 2), (2, 4)]),
        ([0, 4, 4, 4, 1], 1, [(-1, 1), (1, 2), (2, 3), (3, 4)]),
        ([9, 1, 1, 9], 10, [(-1, 1), (1, 3)]),
    ],
)
def test_parts_cover_all_units_and_hold_the_limit(sizes, largest, parts):
    found = plan_parts(sizes, largest=largest)
    assert [(part.start, part.stop) for part in found] == parts
    assert [unit for part in found for unit in range(part.start, part.stop)] == list(range(-1, len(sizes) - 1))


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (Part(-1, 3), "embedding to layer 2"),
        (Part(2, 3), "layer 2"),
        (Part(3, 5), "layer 3 to head"),
        (Part(4, 5), "head"),
    ],
)
def test_parts_are_told_in_words(part, words):
    assert part.in_words(4) == words


def parts_of(exported, max_memory):
    export = exported("llama")
    subject = make_subject(export.model, export.checkpoint, export.family, precision="fp32")
    weights = open_original(subject).weights
    return choose_parts(subject, weights, max_memory=max_memory, report=Reporter("verify"))


def test_a_small_model_is_one_part_and_a_small_budget_cuts_it(exported, monkeypatch):
    assert parts_of(exported, None) == whole(3)
    assert len(parts_of(exported, FIXED_BYTES + 800_000)) > 1
    with pytest.raises(ComparisonMemoryError, match=r"must hold its largest layer in memory; .* Raise --max-memory"):
        parts_of(exported, FIXED_BYTES + 1000)
    monkeypatch.setattr(budget, "find_obstacle", lambda _subject, _weights: "its layers are entangled")
    with pytest.raises(ComparisonMemoryError, match="hold the whole model in memory, since its layers are entangled"):
        parts_of(exported, FIXED_BYTES + 1000)


def test_the_memory_that_an_error_names_is_enough(exported):
    with pytest.raises(ComparisonMemoryError):
        parts_of(exported, needed_bytes(1000))
    assert parts_of(exported, needed_bytes(10**6))


@pytest.mark.parametrize(
    ("kind_of", "kept"),
    [((0,) * 30, 2), ((0,), 1), ((0, 1, 0, 1), 2), ((0, 0, 0, 0, 0, 1, 0), 6), ((0, 1, 2, 3), 4)],
)
def test_every_kind_of_layer_is_among_the_first(kind_of, kept):
    assert keep_every_kind(kind_of) == kept


def test_every_precision_has_a_tolerance_and_the_demanded_ones_hold():
    assert TOLERANCES.keys() == LOCAL_NOISE.keys() == {"fp32", "fp16", "bf16", QUANTIZED}
    assert all(tolerance_of(row) <= 1e-4 for row in TOLERANCES)
    with pytest.raises(UnknownNameError, match="Unknown precision 'fp8'"):
        tolerance_of("fp8")


@pytest.mark.parametrize(
    ("errors", "first"),
    [
        ([1e-7, 5e-7, 1.0, 1e-7], 2),
        ([1e-7, 0.5, 1.0, 1.0], 1),
        ([1e-7, 4e-6, 1.0, float("nan")], 3),
        ([0.9 * STANDS_OUT, 1.0], 1),
        ([0.0, 0.0, 0.0], 0),
    ],
)
def test_the_first_part_that_stands_out_is_chosen(errors, first):
    assert choose_part(errors) == first


@pytest.mark.parametrize(
    ("layer", "name"),
    [(-1, "the embedding"), (0, "decoder layer 0"), (2, "decoder layer 2"), (3, "the final norm or the head")],
)
def test_parts_are_named(layer, name):
    assert part_name(layer, 3) == name
