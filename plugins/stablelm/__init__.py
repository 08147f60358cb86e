"""Plugin of the StableLm family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import StableLmFamily


@hookimpl
def edgellm_register_families() -> list[type[StableLmFamily]]:
    """Register the family."""
    return [StableLmFamily]
