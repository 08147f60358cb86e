"""Plugin of the Mixtral family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import MixtralFamily


@hookimpl
def edgellm_register_families() -> list[type[MixtralFamily]]:
    """Register the family."""
    return [MixtralFamily]
