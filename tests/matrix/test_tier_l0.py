"""Tier l0 of every family in the tree: each entry is a real build, verified against the original.

The quantized ones are level 2 of the conformance kit, which runs on every family too.
"""

from __future__ import annotations

import pytest

from edgellm_core.host import PluginHost
from edgellm_core.matrix.run import run_case
from edgellm_core.matrix.selection import select_cases
from edgellm_core.registry import ModelRegistry

HOST = PluginHost.load(environ={})
IN_TREE = [family for record in HOST.records if record.origin == "in-tree" for family in record.families]
CASES = [
    pytest.param(case, id=f"{family}-{case.entry}")
    for family in IN_TREE
    for case in select_cases(HOST, ModelRegistry.load(), tier="l0", family=family)
    if not case.entry.quantizes
]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_entry(case):
    result = run_case(case)
    assert result.outcome == ("passed" if case.xfail is None else "xfailed"), result.message + result.details
