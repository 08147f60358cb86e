"""Running a model's own code, which may raise anything and which talks a lot."""

from __future__ import annotations

import contextlib
import logging
import warnings
from typing import TYPE_CHECKING, Final

from edgellm_core.errors import EdgellmError
from edgellm_core.tracing.errors import UntraceableModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

_TALKATIVE: Final = ("torch", "transformers")


@contextlib.contextmanager
def refused_as_untraceable(model: str, action: str) -> Iterator[None]:
    """Turn whatever a model's code raises in the body into an error that names the model.

    Args:
        model: name of the model class.
        action: what was tried, for example ``torch.export``.

    Raises:
        UntraceableModelError: the body raised.
    """
    try:
        yield
    except EdgellmError:
        raise
    except Exception as error:  # the code of a model, run on fake tensors, can raise any class
        reason = f"{action} stopped with {type(error).__name__}: {_first_line(error)}"
        raise UntraceableModelError(model, reason) from error


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Drop warnings and the log lines of torch and transformers in the body.

    torch logs tracebacks of errors that it also raises; whatever matters reaches us as an exception.
    """
    named = logging.root.manager.loggerDict.items()
    found = [item for name, item in named if name.partition(".")[0] in _TALKATIVE and isinstance(item, logging.Logger)]
    speaking = [logger for logger in found if not logger.disabled]
    roots = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in roots]
    for logger in speaking:
        logger.disabled = True  # setLevel on each of hundreds would empty the caches of all of them every time
    for logger in roots:
        logger.setLevel(logging.CRITICAL)  # for loggers that are made in the body
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger in speaking:
            logger.disabled = False
        for logger, level in zip(roots, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")[:300].rstrip(".")
