"""Plugin of the Qwen2Moe family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import Qwen2MoeFamily


@hookimpl
def edgellm_register_families() -> list[type[Qwen2MoeFamily]]:
    """Register the family."""
    return [Qwen2MoeFamily]
