"""Plugin of the Starcoder2 family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import Starcoder2Family


@hookimpl
def edgellm_register_families() -> list[type[Starcoder2Family]]:
    """Register the family."""
    return [Starcoder2Family]
