"""Plugin of the SmolLM3 family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import SmolLM3Family


@hookimpl
def edgellm_register_families() -> list[type[SmolLM3Family]]:
    """Register the family."""
    return [SmolLM3Family]
