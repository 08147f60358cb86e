"""Plugin of the Ministral family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import MinistralFamily


@hookimpl
def edgellm_register_families() -> list[type[MinistralFamily]]:
    """Register the family."""
    return [MinistralFamily]
