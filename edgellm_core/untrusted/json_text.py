"""The only place that parses JSON from outside: nesting and digits are bounded, and every problem is one error.

Python's parser raises three different exceptions, and hands out values that can't be printed, copied or validated
later: integers of more than 4,300 digits, and lists nested deeper than the stack.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from edgellm_core.untrusted.errors import CorruptJsonError
from edgellm_core.untrusted.files import read_text
from edgellm_core.untrusted.limits import DEPTH, DIGITS, JSON_FILE, Limit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Pairs = list[tuple[str, Any]]


class _TooLongError(ValueError):
    """An integer has too many digits."""


def parse_json(text: str, path: object, *, pairs_hook: Callable[[Pairs], Any] | None = None) -> Any:
    """Return the value of a JSON text.

    Args:
        text: the text, of a bounded size.
        path: what errors call it.
        pairs_hook: makes an object of its pairs; by default the last of two equal keys wins, as everywhere.

    Raises:
        CorruptJsonError: it is not JSON, nested deeper than ``DEPTH``, or holds an integer longer than ``DIGITS``.
    """
    try:
        value = json.loads(text, parse_int=_integer, object_pairs_hook=pairs_hook)
    except json.JSONDecodeError as error:
        problem = f"not valid JSON ({error.msg.lower()})" if text.strip() else "the file is empty"
        raise CorruptJsonError(path, problem, error.lineno, error.colno) from error
    except RecursionError:
        raise CorruptJsonError(path, _TOO_DEEP) from None
    except _TooLongError as error:
        raise CorruptJsonError(path, str(error)) from None
    if _is_deeper(value, DEPTH.most):
        raise CorruptJsonError(path, _TOO_DEEP)
    return value


def read_json_value(path: Path, limit: Limit = JSON_FILE) -> Any:
    """Return the value that a JSON file holds.

    Args:
        path: the file.
        limit: its largest size.

    Raises:
        UserError: it can't be read, is too large, or is not JSON; one class per cause.
    """
    return parse_json(read_text(path, limit), path)


def read_json_object(path: Path, limit: Limit = JSON_FILE) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Args:
        path: the file.
        limit: its largest size.

    Raises:
        UserError: it can't be read, is too large, is not JSON, or no object; one class per cause.
    """
    value = read_json_value(path, limit)
    if not isinstance(value, dict):
        raise CorruptJsonError(path, f"expected an object, found {type(value).__name__}", 1, 1)
    return value


_TOO_DEEP = f"nested too deeply, in more than {DEPTH.most} levels"


def _integer(digits: str) -> int:
    if len(digits) > DIGITS.most:
        problem = f"it holds a whole number of {len(digits):,} digits, and {DIGITS.most} are the most that are read"
        raise _TooLongError(problem)
    return int(digits)


def _is_deeper(value: Any, most: int) -> bool:
    """Tell whether containers lie in one another more than ``most`` times, without recursion."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(most):
        if not level:
            return False
        level = [
            child
            for container in level
            for child in (container.values() if type(container) is dict else container)
            if type(child) is dict or type(child) is list
        ]
    return bool(level)
