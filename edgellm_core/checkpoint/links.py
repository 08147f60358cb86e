"""Links in a folder from outside: they may lead to what belongs to it, and nowhere else on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgellm_core.checkpoint.errors import LinkOutsideError
from edgellm_core.checkpoint.tokenizer_files import TEMPLATE_FOLDER
from edgellm_core.untrusted.errors import UnreadableFileError

if TYPE_CHECKING:
    from pathlib import Path

SNAPSHOTS: Final = "snapshots"
BLOBS: Final = "blobs"
"""Folders of a repository in huggingface_hub's cache: ``snapshots/COMMIT/FILE`` is a link into ``blobs``."""


def require_links_inside(directory: Path) -> None:
    """Refuse a checkpoint whose files are links to something else: what a build reads, it may copy into the bundle.

    Links may lead into the folder itself and, in a hub cache, into its own blobs. Nothing reads hidden entries and
    further folders.

    Args:
        directory: the folder; may itself be reached by a link, since the user named it.

    Raises:
        LinkOutsideError: naming the file and where it leads.
        UnreadableFileError: the folder can't be listed.
    """
    try:
        entries = list(directory.iterdir())
        templates = directory / TEMPLATE_FOLDER
        entries += templates.iterdir() if templates.is_dir() else ()
    except OSError as error:
        raise UnreadableFileError(directory, error) from error
    for entry in entries:
        if not entry.name.startswith(".") and (entry.name == TEMPLATE_FOLDER or not entry.is_dir()):
            require_inside(directory, entry)


def require_inside(directory: Path, file: Path) -> None:
    """Refuse a file of a folder that a link leads out of it.

    Args:
        directory: the folder.
        file: a path in it; nothing need be there.

    Raises:
        LinkOutsideError: it leads elsewhere, or nowhere.
    """
    root = directory.resolve()
    allowed = [root, *([root.parent.parent / BLOBS] if root.parent.name == SNAPSHOTS else [])]
    try:
        found = file.resolve(strict=file.is_symlink())
    except (OSError, RuntimeError):  # RuntimeError: a loop, before Python 3.13
        raise LinkOutsideError(file, None) from None
    if not any(found.is_relative_to(place) for place in allowed):
        raise LinkOutsideError(file, found)
