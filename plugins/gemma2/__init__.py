"""Plugin of the Gemma2 family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import Gemma2Family


@hookimpl
def edgellm_register_families() -> list[type[Gemma2Family]]:
    """Register the family."""
    return [Gemma2Family]
