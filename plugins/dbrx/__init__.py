"""Plugin of the Dbrx family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import DbrxFamily


@hookimpl
def edgellm_register_families() -> list[type[DbrxFamily]]:
    """Register the family."""
    return [DbrxFamily]
