"""Plugin of the Phi3 family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import Phi3Family


@hookimpl
def edgellm_register_families() -> list[type[Phi3Family]]:
    """Register the family."""
    return [Phi3Family]
