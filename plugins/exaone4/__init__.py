"""Plugin of the Exaone4 family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import Exaone4Family


@hookimpl
def edgellm_register_families() -> list[type[Exaone4Family]]:
    """Register the family."""
    return [Exaone4Family]
