"""Plugin of the Mistral family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import MistralFamily


@hookimpl
def edgellm_register_families() -> list[type[MistralFamily]]:
    """Register the family."""
    return [MistralFamily]
