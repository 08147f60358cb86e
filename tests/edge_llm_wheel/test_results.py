"""The recorded results: whole, well formed, and on the page."""

from __future__ import annotations

from pathlib import Path

from tests.edge_llm_wheel.checkpoints import CASES
from tests.edge_llm_wheel.results import STATUSES, read_results

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "edge-llm.md"
RECORDS = read_results()["cases"]


def test_each_case_is_recorded_with_what_its_status_needs():
    assert list(RECORDS) == ["-".join(case) for case in CASES]
    for name, record in RECORDS.items():
        assert record["wheel"]["differences"] == [], name
        status = record["ours"]["status"]
        assert status in STATUSES
        assert set(record["ours"]) == {"status", *(["reason"] if status == "refused" else ["nodes", "differences"])}
        assert bool(record["ours"].get("differences")) == (status in {"rounded", "different"})
        assert "/tmp" not in str(record)


def test_each_case_is_on_the_page():
    assert all(f"| `{name}` |" in PAGE.read_text(encoding="utf-8") for name in RECORDS)
