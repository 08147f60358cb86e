"""Level 2: each quantization scheme that the family declares, on its tiny model."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from edgellm_core.testing.kit.check import check
from edgellm_core.testing.kit.skips import SkipReason, skip

if TYPE_CHECKING:
    from edgellm_core.matrix.selection import MatrixCase
    from edgellm_core.testing.kit.case import Case


@check(2)
def test_schemes(edgellm_case: Case) -> None:
    """Each quantized tiny entry of the family's matrix is calibrated, built, and equals what its checkpoint says."""
    from edgellm_core.matrix.run import RunSettings, run_case

    cases = _quantized_cases(edgellm_case)
    if not cases:
        skip(SkipReason.NO_SCHEME, f"Family {edgellm_case.key.family!r} has none.")
    if importlib.util.find_spec("modelopt") is None:
        skip(SkipReason.NEEDS_MODELOPT)
    for case in cases:
        result = run_case(case, RunSettings(plugin_paths=edgellm_case.plan.plugin_paths))
        assert result.outcome == "passed", f"{case.entry}: {result.message}"


def _quantized_cases(case: Case) -> list[MatrixCase]:
    from edgellm_core.matrix.errors import NoEntriesError
    from edgellm_core.matrix.selection import select_cases

    try:
        found = select_cases(case.plan.host, case.plan.registry, family=case.key.family)
    except NoEntriesError:
        return []
    return [one for one in found if one.entry.tiny and one.entry.quantizes and not one.entry.unavailable()]
