"""Every error that edgellm raises on purpose: one class per cause, each builds its own message.

A message states subject, requirement, value and remedy in one or two sentences. The command line prints it without
a traceback and exits with code 1.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable


class EdgellmError(Exception):
    """Base of all errors with a message for the user.

    Attributes:
        resumable: True when finished stages stay valid, so the work directory is kept for the next attempt.
    """

    resumable = False

    def __init__(self, message: str = "") -> None:
        """Keep the message at a length that can be read; values from outside may be megabytes long."""
        super().__init__(shortened(message))


class UserError(EdgellmError):
    """The input or a setting is wrong; the message says what to change."""


class PluginError(EdgellmError):
    """A plugin broke its contract; the message names the plugin."""


class UnknownNameError(UserError):
    """A look-up by name found nothing."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, hint: str = "") -> None:
        """Build ``Unknown family 'qwn3'. Did you mean 'qwen3'?``.

        Args:
            kind: what was looked up, for example ``family``.
            name: the name that was not found.
            known: all names that exist.
            hint: an extra sentence with another remedy.
        """
        names = sorted(known)
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
        if close:
            remedy = f"Did you mean {close[0]!r}?"
        elif names:
            shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
            remedy = f"Available: {shown}."
        else:
            remedy = "None is available."
        super().__init__(" ".join(part for part in (f"Unknown {kind} {name!r}.", remedy, hint) if part))


class NoFormError(UserError):
    """A target has no form for what a checkpoint holds."""

    def __init__(self, target: str, lacking: Iterable[str]) -> None:
        """Name the target and what it lacks."""
        super().__init__(
            f"Target {target!r} has no form for {', '.join(sorted(lacking))}. Choose another --target, or build from "
            "the unquantized checkpoint."
        )


class InvalidSettingError(UserError):
    """A setting has a value that can't work, alone or together with another setting."""

    def __init__(self, setting: str, requirement: str, value: object, remedy: str) -> None:
        """Build ``--max-input-len must be …; got …. <remedy>``."""
        super().__init__(f"{setting} {requirement}; got {str(value)[:LONGEST_REASON]}. {remedy}")


LONGEST_MESSAGE: Final = 4000
"""Characters of a message of ours; the middle of a longer one is left out, so that the remedy stays."""

LONGEST_VALUE: Final = 60
"""Characters of a value from outside in a message."""


def shortened(message: str) -> str:
    """Return a message without its middle where it is too long, and without halves of surrogate pairs."""
    if len(message) > LONGEST_MESSAGE:
        message = f"{message[: LONGEST_MESSAGE - 1000]} […] {message[-990:]}"
    return message.encode("utf-8", "backslashreplace").decode("utf-8")


def shown(value: object) -> str:
    """Return a value from outside for a message: short, whatever it is."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - whatever __repr__ raises, and integers of more than 4,300 digits
        return f"a value of type {type(value).__name__} that can't be shown"
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


STAGE: Final = "edgellm_stage"
"""Attribute of an exception that says in which stage it was raised."""


class Stopped(BaseException):
    """A signal asked the process to end.

    Attributes:
        signal: its number.
    """

    def __init__(self, signal: int) -> None:
        """Remember which one."""
        self.signal = signal
        super().__init__(signal)


def sentence_of(error: BaseException, place: str = "edgellm") -> str:
    """Return what the user is told of an exception, in one line.

    Args:
        error: an error of ours, which has a message for the user, or anything else, which is a defect.
        place: what ran, where no stage did.
    """
    if isinstance(error, EdgellmError):
        return str(error)
    if isinstance(error, (KeyboardInterrupt, Stopped)):
        return "Stopped."
    stage = vars(error).get(STAGE)
    where = f"Stage {stage!r}" if stage else place
    reason = one_line(error)
    what = type(error).__name__ + (f": {reason[:LONGEST_REASON]}" if reason else "")
    return f"{where} ended unexpectedly with {what}. This is a defect of edgellm: -v shows the traceback to report."


LONGEST_REASON: Final = 500
"""Characters of a foreign exception's message that are shown."""


def one_line(error: object) -> str:
    """Return the message of another library's exception in one line, without the full stop."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - the exception of another library may have any __str__
        text = f"{type(error).__name__}, whose message can't be made"
    return " ".join(text.split()).rstrip(".")
