"""The results name every decoder-only type of their transformers, and nothing in them is wrong or crashed."""

from __future__ import annotations

from tests.coverage.model_types import decoder_only_types
from tests.coverage.results import installed, read_results


def test_the_results_cover_what_the_recorded_transformers_registers():
    results = read_results()
    assert set(results["versions"]) == set(installed())
    if results["versions"]["transformers"] == installed()["transformers"]:
        assert list(results["types"]) == decoder_only_types()


def test_nothing_is_wrong_and_nothing_crashes():
    assert [name for name, record in read_results()["types"].items() if record["status"] in {"wrong", "crashed"}] == []
