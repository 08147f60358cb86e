"""Plugin of the Gemma family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import GemmaFamily


@hookimpl
def edgellm_register_families() -> list[type[GemmaFamily]]:
    """Register the family."""
    return [GemmaFamily]
