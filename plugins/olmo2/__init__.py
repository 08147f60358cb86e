"""Plugin of the Olmo2 family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import Olmo2Family


@hookimpl
def edgellm_register_families() -> list[type[Olmo2Family]]:
    """Register the family."""
    return [Olmo2Family]
