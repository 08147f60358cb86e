"""The nova pack: an architecture that exists nowhere else."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import NovaFamily


@hookimpl
def edgellm_register_families() -> list[type[NovaFamily]]:
    """Register the family."""
    return [NovaFamily]
