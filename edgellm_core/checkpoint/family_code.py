"""Modeling code that a family brings: registered with transformers once a process, when a config is first loaded."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from edgellm_core.contract import ModelFamily

_FAILURES: Final[dict[type[ModelFamily], Exception | None]] = {}
"""Class of each family that was asked, and what it raised. Two hosts of one process share transformers' tables."""

_LOCK: Final = threading.RLock()


def register_model(family: ModelFamily) -> None:
    """Let a family register its modeling code, unless it did so before in this process.

    Everything that loads a transformers config of a family calls this first.

    Raises:
        EdgellmError: it failed, now or the first time: what is registered halfway can't be registered again.
    """
    kind = type(family)
    with _LOCK:
        if kind not in _FAILURES:
            _FAILURES[kind] = None
            try:
                family.register_model()
            except Exception as error:
                _FAILURES[kind] = error
                raise
        failure = _FAILURES[kind]
    if failure is not None:
        raise failure
