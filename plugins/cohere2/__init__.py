"""Plugin of the Cohere2 family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import Cohere2Family


@hookimpl
def edgellm_register_families() -> list[type[Cohere2Family]]:
    """Register the family."""
    return [Cohere2Family]
