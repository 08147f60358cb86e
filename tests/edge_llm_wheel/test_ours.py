"""Our exports differ from those of the wheel as the results say."""

from __future__ import annotations

import pytest

from tests.edge_llm_wheel.checkpoints import CASES
from tests.edge_llm_wheel.results import read_results
from tests.edge_llm_wheel.walk import our_record

pytestmark = pytest.mark.wheel


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_our_export_is_as_recorded(case, theirs, checkpoints, tmp_path):
    record = our_record(checkpoints[case], tmp_path / "ours", theirs[case])
    assert record == read_results()["cases"]["-".join(case)]["ours"]
