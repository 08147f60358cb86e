"""One writer at a time for each output: a lock of the operating system, which ends with its process however that ends.

``filelock`` keeps no text of the owner in its native locks, which a message to those who wait needs.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import socket
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgellm_core.bundle.errors import OutputLockedError, OutputNotWritableError
from edgellm_core.errors import UserError
from edgellm_core.events import Listener, Reporter, ignore_events, stage_events
from edgellm_core.untrusted import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX: Final = ".edgellm-lock-"
"""A lock lies beside its output. No other file that lies there has a longer name, so that this one's is the test."""

STAGE: Final = "lock"

POLL_SECONDS: Final = 0.1
"""Time between two attempts."""

LONGEST_OWNER: Final = 4096
"""Bytes of a lock file that are read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """Who holds a lock.

    Attributes:
        pid: number of the process.
        host: name of its machine; processes of other machines and containers lock too where the file system can.
        started: when it took the lock, ISO 8601 in UTC.
        command: what was typed.
    """

    pid: int
    host: str
    started: str
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.started} ({self.command})"


@contextmanager
def locked(out: Path, *, wait: bool = True, listener: Listener = ignore_events) -> Iterator[None]:
    """Hold the lock of an output while the body runs; whoever writes an output or its work directory holds it.

    Args:
        out: the output; links are followed, so that two names of one place have one lock.
        wait: wait for whoever holds it, instead of refusing.
        listener: receives the events of the stage ``lock``, which there is only where one has to wait; its notes name
            the owner.

    Raises:
        OutputLockedError: another process holds it, and ``wait`` is false.
        OutputNotWritableError: the folder of the output can't be written, or its file system has no locks.
    """
    path = lock_path(out)
    made = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
    try:
        descriptor = _acquire(out, path, wait=wait, listener=listener)
    except OSError as error:
        raise OutputNotWritableError(out, error) from error
    try:
        yield
    finally:
        _release(path, descriptor)
        _remove_empty(made)


def lock_path(out: Path) -> Path:
    """Return where the lock of an output lies."""
    place = out.resolve()
    return place.with_name(f"{PREFIX}{place.name}")


def _acquire(out: Path, path: Path, *, wait: bool, listener: Listener) -> int:
    """Return the descriptor of the lock file, locked."""
    report: Reporter | None = None
    told: Owner | None = None
    with ExitStack() as waiting:
        while True:
            descriptor, owner = _attempt(path)
            if descriptor is not None:
                return descriptor
            if not wait:
                raise OutputLockedError(out, _described(owner))
            if report is None:
                report = waiting.enter_context(stage_events(STAGE, listener))
                report.note(f"{str(out)!r} is in use by {_described(owner)}; waiting until that ends.")
            elif owner not in (told, None):
                report.note(f"{str(out)!r} now is in use by {_described(owner)}.")
            told = owner or told
            time.sleep(POLL_SECONDS)


def _attempt(path: Path) -> tuple[int | None, Owner | None]:
    """Return the descriptor of the lock file if it could be locked, else who holds it, where that can be read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except FileNotFoundError:  # whoever ended just now removed the folder that it had made
        return None, None
    try:
        if _try_lock(descriptor):
            if _is_current(path, descriptor):
                _write_owner(descriptor)
                return descriptor, None
            owner = None
        else:
            owner = _read_owner(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None, owner


def _described(owner: Owner | None) -> str:
    return str(owner) if owner else "another process"


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_current(path: Path, descriptor: int) -> bool:
    """Say whether a locked file still has its name: its last owner removes it, and a newer one may be locked."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _write_owner(descriptor: int) -> None:
    owner = Owner(
        pid=os.getpid(),
        host=socket.gethostname(),
        started=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:1000],
    )
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(asdict(owner)).encode(), 0)


def _read_owner(descriptor: int) -> Owner | None:
    text = os.pread(descriptor, LONGEST_OWNER, 0).decode("utf-8", "replace")
    try:
        fields = parse_json(text, "the lock")
        return Owner(pid=int(fields["pid"]), **{name: str(fields[name]) for name in ("host", "started", "command")})
    except (UserError, ValueError, KeyError, TypeError):  # locked, and not yet written
        return None


def _release(path: Path, descriptor: int) -> None:
    """Remove the file while it is still locked, so that no other process can hold the lock of this very file."""
    try:
        if _is_current(path, descriptor):
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders that were made for the lock, from the innermost on, unless something lies in them."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
