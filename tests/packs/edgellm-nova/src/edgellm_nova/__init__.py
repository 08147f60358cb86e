"""The nova pack: an architecture that exists nowhere else, and a runtime of its own."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import NovaFamily
from .target import NovaTarget


@hookimpl
def edgellm_register_families() -> list[type[NovaFamily]]:
    """Register the family."""
    return [NovaFamily]


@hookimpl
def edgellm_register_targets() -> list[type[NovaTarget]]:
    """Register the target."""
    return [NovaTarget]
