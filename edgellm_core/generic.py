"""The family of checkpoints that no plugin claims: the plain path; the parity gate decides whether it is right."""

from __future__ import annotations

from typing import ClassVar

from edgellm_core.contract import ModelFamily
from edgellm_core.hookspecs import hookimpl


class GenericFamily(ModelFamily):
    """Claims nothing and changes nothing."""

    name: ClassVar[str] = "generic"


@hookimpl
def edgellm_register_families() -> list[type[GenericFamily]]:
    """Register the fallback; the host loads this module like a plugin that can't be deselected."""
    return [GenericFamily]
