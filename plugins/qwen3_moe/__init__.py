"""Plugin of the Qwen3Moe family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import Qwen3MoeFamily


@hookimpl
def edgellm_register_families() -> list[type[Qwen3MoeFamily]]:
    """Register the family."""
    return [Qwen3MoeFamily]
