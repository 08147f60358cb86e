"""Bounds what a chat template may cost: Jinja's sandbox keeps it from files and code, not from running for ever."""

from __future__ import annotations

import contextlib
import re
import sys
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.runtime.errors import TemplateLimitError
from edgellm_core.untrusted.limits import TEMPLATE_STEPS, TEMPLATE_VALUE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

BOUNDED: Final = frozenset(["*", "**", "+", "%"])
"""Operators of templates whose result can be far larger than what they are given."""

WIDTH: Final = re.compile(r"%[^a-zA-Z%]*(\*|\d{5,})")
"""A width or precision in a format string that makes a text of more than 10,000 characters, or is not in it."""


def check_operation(operator: str, left: Any, right: Any) -> None:
    """Refuse an operation before it makes a value larger than ``TEMPLATE_VALUE``.

    Raises:
        TemplateLimitError: naming the operator.
    """
    if operator == "%" and isinstance(left, str) and WIDTH.search(left):
        msg = f"a format of {left[:40]!r}"
        raise TemplateLimitError(msg)
    if _size_of(operator, left, right) > TEMPLATE_VALUE.most:
        msg = f"{operator!r} making a value of more than {TEMPLATE_VALUE.shown()}"
        raise TemplateLimitError(msg)


def _size_of(operator: str, left: Any, right: Any) -> int:
    """Return the size of a result: characters, entries, or bits of an integer."""
    sizes = [_length(left), _length(right)]
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        return left.bit_length() * max(right, 0)
    if operator == "*":
        for size, times in ((sizes[0], right), (sizes[1], left)):
            if size is not None and isinstance(times, int):
                return size * max(times, 0)
    if isinstance(left, int) and isinstance(right, int):
        return left.bit_length() + right.bit_length()
    return sum(size for size in sizes if size is not None)


def _length(value: Any) -> int | None:
    return len(value) if isinstance(value, str | bytes | list | tuple) else None


@contextlib.contextmanager
def limited_steps() -> Iterator[None]:
    """Count the lines that a template and what it calls run, and end it after ``TEMPLATE_STEPS``.

    Steps rather than seconds, so that a slow machine refuses nothing that a fast one renders.

    Raises:
        TemplateLimitError: there are more.
    """
    left = TEMPLATE_STEPS.most

    def count(_frame: FrameType, _event: str, _argument: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            msg = f"running for more than {TEMPLATE_STEPS.shown()}"
            raise TemplateLimitError(msg)
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(before)
