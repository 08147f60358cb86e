"""Plugin of the Olmoe family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import OlmoeFamily


@hookimpl
def edgellm_register_families() -> list[type[OlmoeFamily]]:
    """Register the family."""
    return [OlmoeFamily]
