"""Plugin of the Granite family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import GraniteFamily


@hookimpl
def edgellm_register_families() -> list[type[GraniteFamily]]:
    """Register the family."""
    return [GraniteFamily]
