"""Plugin of the Llama family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import LlamaFamily


@hookimpl
def edgellm_register_families() -> list[type[LlamaFamily]]:
    """Register the family."""
    return [LlamaFamily]
