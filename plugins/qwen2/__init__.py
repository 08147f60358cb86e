"""Plugin of the Qwen2 family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import Qwen2Family


@hookimpl
def edgellm_register_families() -> list[type[Qwen2Family]]:
    """Register the family."""
    return [Qwen2Family]
