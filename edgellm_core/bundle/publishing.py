"""Moves a finished work directory to its place: at every moment the output is absent, the old or the new bundle."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import tempfile
from typing import TYPE_CHECKING, Final

from edgellm_core.bundle.errors import (
    BundleExistsError,
    DanglingOutputError,
    ForeignOutputError,
    InvalidManifestError,
    MountPointError,
    NotABundleError,
    OutputNotWritableError,
)
from edgellm_core.bundle.files import sync, sync_tree
from edgellm_core.bundle.manifest import MANIFEST_NAME, read_fields

if TYPE_CHECKING:
    from pathlib import Path

AT_FDCWD: Final = -100
RENAME_EXCHANGE: Final = 2
"""Linux ``renameat2(2)``: swap two paths in one step (``AT_FDCWD``: paths are relative to the working directory)."""

NO_EXCHANGE: Final = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)
"""What a kernel, file system or sandbox answers that can't swap two paths."""


def check_output(out: Path, *, force: bool) -> None:
    """Refuse an output path that ``publish`` would refuse, before any work is done; leaves nothing behind.

    Args:
        out: where the bundle is to go.
        force: an existing bundle may be replaced.

    Raises:
        ForeignOutputError: it holds something that is not a bundle.
        DanglingOutputError: it is a link to nothing.
        MountPointError: a file system is mounted there.
        BundleExistsError: it holds a bundle and ``force`` is false.
        OutputNotWritableError: its parent can't be written.
    """
    if _holds_bundle(out) and not force:
        raise BundleExistsError(out)
    try:
        # Trying is the only test that holds for root and for read-only file systems.
        with tempfile.TemporaryDirectory(prefix=".edgellm-", dir=_existing_parent(out.resolve())):
            return
    except OSError as error:
        raise OutputNotWritableError(out, error) from error


def publish(work: Path, out: Path, *, force: bool) -> None:
    """Move a work directory, with its manifest, to ``out``.

    Everything is on disk before the move, and the move is one rename (of an existing bundle: one swap where the
    system can do that, so that a process killed at any moment leaves the old or the new bundle).

    Args:
        work: the finished bundle, on the same file system as ``out``.
        out: where it goes; symbolic links are followed.
        force: replace an existing bundle.

    Raises:
        NotABundleError: ``work`` has no manifest.
        ForeignOutputError: ``out`` holds something that is not a bundle.
        BundleExistsError: ``out`` holds a bundle and ``force`` is false.
        OutputNotWritableError: the system refuses.
    """
    read_fields(work)
    replace = _holds_bundle(out)
    if replace and not force:
        raise BundleExistsError(out)
    move_into_place(work, out, replace=replace)


def move_into_place(work: Path, out: Path, *, replace: bool) -> None:
    """Move a finished directory to ``out`` in one rename, or one swap where something is replaced.

    Args:
        work: the directory, on the same file system as ``out``.
        out: where it goes; symbolic links are followed.
        replace: something is there, which may be replaced.

    Raises:
        OutputNotWritableError: the system refuses.
    """
    place = out.resolve()
    try:
        _existing_parent(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        sync_tree(work)
        if replace:
            _replace(work, place)
        else:
            work.rename(place)
            sync(place.parent)
    except OSError as error:
        raise OutputNotWritableError(out, error) from error
    for leftover in (_staged(place), aside(place)):
        shutil.rmtree(leftover, ignore_errors=True)  # published already; what stays is removed by the next build


def aside(out: Path) -> Path:
    """Return where the old bundle lies for a moment while it is replaced, on systems that can't swap."""
    return out.with_name(f".{out.name}.edgellm-old")


def _is_empty(out: Path) -> bool:
    """Return whether a directory is empty, and can be replaced by a rename.

    Raises:
        MountPointError: it can't.
        OutputNotWritableError: the system does not say.
    """
    try:
        empty = next(out.iterdir(), None) is None
    except OSError as error:
        raise OutputNotWritableError(out, error) from error
    if empty and out.is_mount():
        raise MountPointError(out)
    return empty


def _existing_parent(path: Path) -> Path:
    """Return the nearest parent that exists.

    Raises:
        NotADirectoryError: it is a file.
    """
    parent = next(parent for parent in path.parents if parent.exists())
    if not parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    return parent


def _staged(out: Path) -> Path:
    return out.with_name(f".{out.name}.edgellm-new")


def _replace(work: Path, out: Path) -> None:
    """Put ``work`` where a bundle is, which ends up beside it under another name."""
    staged = _staged(out)
    if staged.exists():
        shutil.rmtree(staged)
    # The swap leaves the old bundle under the name of the new one, which must not be the work directory: after a
    # kill a later build would resume from it.
    work.rename(staged)
    try:
        _exchange(staged, out)
    except OSError as error:
        if error.errno not in NO_EXCHANGE:
            raise
        if aside(out).exists():
            shutil.rmtree(aside(out))
        out.rename(aside(out))
        staged.rename(out)
    sync(out.parent)


def _exchange(first: Path, second: Path) -> None:
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # Linux, glibc 2.28 or newer
    if renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if renameat2(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _holds_bundle(out: Path) -> bool:
    """Return whether ``out`` holds a bundle (of any schema) rather than nothing, or an empty folder.

    Raises:
        ForeignOutputError: it holds something else.
        DanglingOutputError: it is a link to nothing.
        MountPointError: it is an empty folder that can't be replaced.
        OutputNotWritableError: the system does not even say what is there.
    """
    try:
        out.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise OutputNotWritableError(out, error) from error
    if not out.is_dir():
        if out.is_symlink() and not os.path.lexists(os.path.realpath(out)):
            raise DanglingOutputError(out, str(out.readlink()))
        raise ForeignOutputError(out, "it is not a directory")
    if _is_empty(out):
        return False
    try:
        fields = read_fields(out)
    except NotABundleError as error:
        raise ForeignOutputError(out, f"it has no readable {MANIFEST_NAME}") from error
    except InvalidManifestError as error:
        raise ForeignOutputError(out, f"its {MANIFEST_NAME} is not a manifest") from error
    if not {"schema_version", "source", "files"} <= fields.keys():
        raise ForeignOutputError(out, f"its {MANIFEST_NAME} is not a manifest")
    return True
