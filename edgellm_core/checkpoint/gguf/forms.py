"""Finds the family that reads a GGUF file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.checkpoint.errors import GgufArchitectureError
from edgellm_core.checkpoint.gguf.metadata import architecture

if TYPE_CHECKING:
    from edgellm_core.checkpoint.gguf.header import GgufHeader
    from edgellm_core.contract import ModelFamily
    from edgellm_core.gguf_form import GgufForm
    from edgellm_core.host import PluginHost


def find_form(host: PluginHost, header: GgufHeader) -> tuple[ModelFamily, GgufForm]:
    """Return the family whose files these are, and how it writes them.

    Raises:
        GgufArchitectureError: no family reads the architecture.
        CorruptGgufError: the file has no ``general.architecture``.
    """
    name = architecture(header)
    experts = bool(header.fields.get(f"{name}.expert_count", 0))
    known = [(family, form) for family in host.families() for form in family.gguf_forms]
    for family, form in known:
        if form.architecture == name and form.experts == experts:
            return family, form
    kinds = {form.architecture + (" with experts" if form.experts else "") for _family, form in known}
    raise GgufArchitectureError(header.file, name + (" with experts" if experts else ""), sorted(kinds))
