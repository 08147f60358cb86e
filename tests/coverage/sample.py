"""Which model types a run walks again: a few, chosen by the commit, so that a commit always gives the same answer."""

from __future__ import annotations

import hashlib
import importlib.metadata
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def read_revision(root: Path) -> str:
    """Return the commit that is checked out in a folder; edgellm's version where the folder is no clone of its own."""
    command = ["git", "-C", str(root), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        top, commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[:2]
    except (OSError, subprocess.CalledProcessError):
        return importlib.metadata.version("edgellm")
    return commit if root.samefile(top) else importlib.metadata.version("edgellm")


def choose_sample(names: Sequence[str], size: int, revision: str) -> list[str]:
    """Return ``size`` of the names: those that hash lowest together with the revision."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{revision}:{name}".encode()).digest())[:size]
