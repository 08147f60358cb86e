"""Rules that hold for every target, one rule a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellm_core.surgery.rule import Rule


def core_rules() -> Sequence[Rule]:
    """Return the core's own rules."""
    from edgellm_core.surgery.rules.fold_constants import FoldConstants
    from edgellm_core.surgery.rules.remove_identity import RemoveIdentity
    from edgellm_core.surgery.rules.remove_noop import RemoveNoOp

    return (RemoveIdentity(), RemoveNoOp(), FoldConstants())
