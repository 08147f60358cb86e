"""Level 2: each quantization scheme that the family declares, on its tiny model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.testing.kit.check import check
from edgellm_core.testing.kit.skips import SkipReason, skip

if TYPE_CHECKING:
    from edgellm_core.testing.kit.case import Case


@check(2)
def test_schemes(edgellm_case: Case) -> None:
    """Each quantization scheme of the family gives a graph within the scheme's tolerance."""
    skip(SkipReason.NO_SCHEME, f"Family {edgellm_case.key.family!r} has nothing to quantize with.")
