"""Plugin of the Qwen3 family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import Qwen3Family


@hookimpl
def edgellm_register_families() -> list[type[Qwen3Family]]:
    """Register the family."""
    return [Qwen3Family]
