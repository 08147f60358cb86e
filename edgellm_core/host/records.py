"""What the host found and what it decided: records of plugins, claims and selections."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from edgellm_core.contract import ModelFamily

Origin = Literal["core", "in-tree", "entry point", "path"]
"""Discovery route of a plugin, from the weakest to the strongest."""

Status = Literal["active", "overridden", "skipped", "deselected"]
"""``overridden``: later routes took everything that it claimed. ``deselected``: EDGELLM_PLUGINS leaves it out."""

ClaimKey = Literal["family", "model_type", "architectures", "target", "scheme", "command", "calibration data"]

UNDIGESTED_FOLDERS: Final = frozenset({"__pycache__", ".git"})
"""Folders of a plugin that never decide what a build makes; every other file may, whatever its ending."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A name that belongs to one plugin at a time.

    Attributes:
        key: what is claimed: a name of a family, target, scheme, command or calibration data, or a value of that key of
            config.json.
        value: the name or value.
    """

    key: ClaimKey
    value: str

    def __str__(self) -> str:
        return f"{self.key} {self.value!r}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PluginRecord:
    """One plugin that discovery met.

    Attributes:
        name: folder name (in-tree, path) or name of the entry point.
        origin: discovery route.
        version: of the distribution that it came from; for a path, its ``__version__``; else empty.
        package: name of the pip package that it came from; empty for in-tree plugins and paths.
        location: its package folder or module file; None where no file was found.
        families: names of the families that it registered and still holds.
        claims: everything else that it claimed and still holds.
        status: what became of it.
        error: why it was skipped; None unless it was.
        notes: sentences about claims that it took or lost.
        unfit: the family for whose range of transformers versions it was skipped; empty for any other reason.
    """

    name: str
    origin: Origin
    version: str = ""
    package: str = ""
    location: Path | None = None
    families: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    status: Status = "active"
    error: str | None = None
    notes: tuple[str, ...] = ()
    unfit: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types; claims are objects with ``key`` and ``value``."""
        return {
            "name": self.name,
            "origin": self.origin,
            "version": self.version,
            "package": self.package,
            "location": None if self.location is None else str(self.location),
            "families": list(self.families),
            "claims": [{"key": claim.key, "value": claim.value} for claim in self.claims],
            "status": self.status,
            "error": self.error,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """The family chosen for a checkpoint.

    Attributes:
        family: the family.
        plugin: the plugin that brought it.
        reason: why, as a sentence without a full stop.
        plugins_digest: sha256 over all plugins that are loaded, any of which may change what a family does: its base
            class may be another plugin's.
    """

    family: ModelFamily
    plugin: PluginRecord
    reason: str
    plugins_digest: str = ""


def plugin_digest(record: PluginRecord) -> str:
    """Return the SHA-256 of names and contents of all files of a plugin, in hexadecimal."""
    digest = hashlib.sha256()
    for name, path in _digested_files(record.location):
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _digested_files(location: Path | None) -> list[tuple[str, Path]]:
    """Return relative name and path of the files that the digest covers, sorted by name."""
    if location is None:
        return []
    if location.is_file():
        return [(location.name, location)]
    files = ((path.relative_to(location), path) for path in location.rglob("*") if path.is_file())
    return sorted((name.as_posix(), path) for name, path in files if not UNDIGESTED_FOLDERS & set(name.parts))
