"""Plugin of the Cohere family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import CohereFamily


@hookimpl
def edgellm_register_families() -> list[type[CohereFamily]]:
    """Register the family."""
    return [CohereFamily]
