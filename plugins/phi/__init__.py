"""Plugin of the Phi family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import PhiFamily


@hookimpl
def edgellm_register_families() -> list[type[PhiFamily]]:
    """Register the family."""
    return [PhiFamily]
