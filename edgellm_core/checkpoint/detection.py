"""``detect``: which family and plugin a model belongs to, why, and the verdict of preflight."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgellm_core.checkpoint.preflight import Metadata, Summary, summarize

if TYPE_CHECKING:
    from edgellm_core.host import PluginHost, Selection

GENERIC_FAMILY = "generic"


@dataclass(frozen=True, kw_only=True, slots=True)
class Detection:
    """What ``detect`` found out.

    Attributes:
        selection: family, plugin and reason.
        nearest: families that are near when no plugin claims the model.
        model_type: as config.json says; None where it does not.
        architectures: as config.json says.
        summary: sizes, estimates and what will not work.
        checked: what was looked at, in words.
        not_checked: what only a build sees, or ``--deep``.
        remarks: disagreements of the files that have no consequence.
    """

    selection: Selection
    nearest: tuple[str, ...]
    model_type: str | None
    architectures: tuple[str, ...]
    summary: Summary
    checked: tuple[str, ...] = ()
    not_checked: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return everything in types of JSON."""
        summary = asdict(self.summary)
        return {
            "source": {key: summary.pop(key) for key in ("kind", "id", "revision")},
            "family": {
                "name": self.selection.family.name,
                "plugin": self.selection.plugin.name,
                "origin": self.selection.plugin.origin,
                "version": self.selection.plugin.version,
                "reason": self.selection.reason,
                "nearest": list(self.nearest),
            },
            "model_type": self.model_type,
            "architectures": list(self.architectures),
            **summary,
            "checked": list(self.checked),
            "not_checked": list(self.not_checked),
            "remarks": list(self.remarks),
        }


def judge(metadata: Metadata, host: PluginHost, *, family: str | None, precision: str) -> Detection:
    """Say what a model is from its metadata.

    Raises:
        UserError: the family is unknown.
    """
    config = metadata.config
    selection = host.select(config, forced=family, directory=metadata.directory)
    generic = selection.family.name == GENERIC_FAMILY
    architectures = config.get("architectures")
    model_type = config.get("model_type")
    return Detection(
        selection=selection,
        nearest=tuple(host.nearest(config, _tensor_names(metadata))) if generic else (),
        model_type=model_type if isinstance(model_type, str) else None,
        architectures=tuple(map(str, architectures)) if isinstance(architectures, list) else (),
        summary=summarize(metadata, precision=precision, claimed=not generic),
    )


def _tensor_names(metadata: Metadata) -> list[str]:
    """Return the tensor names where they are transformers' own; a GGUF file has others."""
    if metadata.location.kind not in {"directory", "hub"}:
        return []
    return [tensor.name for tensor in metadata.tensors or ()]
