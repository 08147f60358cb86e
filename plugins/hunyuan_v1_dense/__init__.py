"""Plugin of the HunYuanDenseV1 family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import HunYuanDenseV1Family


@hookimpl
def edgellm_register_families() -> list[type[HunYuanDenseV1Family]]:
    """Register the family."""
    return [HunYuanDenseV1Family]
