"""Plugin of the GptOss family."""

from __future__ import annotations

from edgellm_core.hookspecs import hookimpl

from .family import GptOssFamily


@hookimpl
def edgellm_register_families() -> list[type[GptOssFamily]]:
    """Register the family."""
    return [GptOssFamily]
