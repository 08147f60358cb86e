"""Plugin of the Ministral3 family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import Ministral3Family


@hookimpl
def edgellm_register_families() -> list[type[Ministral3Family]]:
    """Register the family."""
    return [Ministral3Family]
