"""The results of the walk: well formed, on the page, and still true for a sample that changes with the commit."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from edgellm_core import build
from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from tests.coverage.configs import SHRUNK, tiny_config
from tests.coverage.model_types import NOT_DECODER_ONLY, decoder_only_types
from tests.coverage.one_type import SHOWN, largest_error, shorten
from tests.coverage.results import STATUSES, merge_results, read_results, write_results
from tests.coverage.sample import choose_sample, read_revision
from tests.coverage.special import SPECIAL
from tests.coverage.walk import walk_type

ROOT = Path(__file__).parents[2]
IN_TREE = {path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py")}
TYPES = read_results()["types"]
SAMPLE = 6
OTHERS = sorted(set(TYPES) - IN_TREE)  # each family that ships has its own tests


@pytest.mark.slow
@pytest.mark.parametrize("model_type", choose_sample(OTHERS, SAMPLE, read_revision(ROOT)))
def test_the_sample_of_this_commit_has_the_recorded_status(model_type):
    record = walk_type(model_type)
    assert record["status"] == TYPES[model_type]["status"], record


def test_each_record_says_what_its_status_needs():
    for name, record in TYPES.items():
        keys = {"max_rel_err", "family", "precisions"} if record["status"] == "right" else {"reason"}
        assert set(record) == {"status", "seconds", *keys}, name
        assert record["status"] in STATUSES
        assert record.get("max_rel_err", 0.0) <= 1e-4
        assert "/tmp" not in record.get("reason", "")


def test_the_page_has_the_counts_and_rows_of_the_results():
    page = (ROOT / "docs" / "reference" / "coverage.md").read_text()
    found = dict(re.findall(r"^\| \*(\w+)\* \| (\d+) \|", page, re.MULTILINE))
    counts = Counter(record["status"] for record in TYPES.values())
    assert {status: int(count) for status, count in found.items()} == {status: counts[status] for status in STATUSES}
    rows = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert sorted(set(rows) - {"model_type"}) == sorted(TYPES)


def test_the_families_that_ship_are_handled_by_their_plugins():
    """Each plugin claims types; a type with the plugin's own name must not have fallen to the generic family."""
    assert {TYPES[name].get("family") for name in IN_TREE & set(TYPES)} <= IN_TREE


def test_what_is_left_out_is_registered():
    assert set(NOT_DECODER_ONLY) <= set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def test_configs_are_stated_for_decoder_only_types_alone():
    assert set(SPECIAL) <= set(decoder_only_types())


@pytest.mark.parametrize("model_type", decoder_only_types())
def test_a_tiny_config_is_small_and_known(model_type):
    config = tiny_config(model_type)
    assert config["model_type"] == model_type in CONFIG_MAPPING
    assert config.get("vocab_size", SHRUNK["vocab_size"]) <= 512
    json.dumps(config)


def test_a_reason_is_one_line_without_the_folder(tmp_path):
    reason = f"The checkpoint '{tmp_path}/checkpoint'\n  is damaged."
    assert shorten(reason, tmp_path) == "The checkpoint 'checkpoint' is damaged."
    assert len(shorten("word " * 100, tmp_path)) <= SHOWN


def test_merging_keeps_the_other_types_of_the_same_versions_only(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.coverage.results.PATH", tmp_path / "results.json")
    write_results({"b": {"status": "refused", "reason": "ü"}, "a": {"status": "right"}})
    assert list(read_results()["types"]) == ["a", "b"]
    assert merge_results({"b": {"status": "right"}}) == {"a": {"status": "right"}, "b": {"status": "right"}}
    monkeypatch.setattr("tests.coverage.results.installed", lambda: {"transformers": "0"})
    assert merge_results({"b": {"status": "right"}}) == {"b": {"status": "right"}}


def test_the_second_comparison_notices_another_window(tmp_path):
    checkpoint = write_tiny_checkpoint(tmp_path / "checkpoint", tiny_config("mistral"))
    bundle = build(checkpoint, tmp_path / "bundle", precision="fp32", engine="none", verify="off")
    assert largest_error(bundle.model_path, checkpoint) <= 1e-4
    path = checkpoint / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sliding_window": 6}))
    assert largest_error(bundle.model_path, checkpoint) > 0.03
