"""Plugin of the Glm4 family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import Glm4Family


@hookimpl
def edgellm_register_families() -> list[type[Glm4Family]]:
    """Register the family."""
    return [Glm4Family]
