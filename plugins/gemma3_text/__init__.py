"""Plugin of the Gemma3Text family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import Gemma3TextFamily


@hookimpl
def edgellm_register_families() -> list[type[Gemma3TextFamily]]:
    """Register the family."""
    return [Gemma3TextFamily]
