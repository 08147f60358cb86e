"""Values as Python source, in the form that the families of the repository have."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH: Final = 120
NO_BREAK: Final = "\N{NO-BREAK SPACE}"


def python_literal(value: Any) -> str:
    """Return a value of a config.json as a Python literal on one line, strings in double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{python_literal(key)}: {python_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(python_literal, value)) + "]"
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return f'float("{value}")'
    return repr(value)


def python_tuple(values: Sequence[str]) -> str:
    """Return strings as a Python tuple."""
    return "(" + ", ".join(map(python_literal, values)) + ("," if len(values) == 1 else "") + ")"


def dict_lines(fields: Mapping[str, Any], indent: int) -> str:
    """Return the items of a dict, as many on a line as fit; lines break between words that no string holds.

    Args:
        fields: the dict.
        indent: spaces before each line.
    """
    items = [f"{python_literal(key)}: {_unbroken(value)}," for key, value in fields.items()]
    space = " " * indent
    wrapped = textwrap.wrap(
        " ".join(items), WIDTH, initial_indent=space, subsequent_indent=space,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return "\n".join(wrapped).replace(NO_BREAK, " ")


def _unbroken(value: Any) -> str:
    if isinstance(value, str):
        return python_literal(value).replace(" ", NO_BREAK)
    if isinstance(value, dict):
        items = (f"{python_literal(key)}:{NO_BREAK}{_unbroken(item)}" for key, item in value.items())
        return "{" + ", ".join(items) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_unbroken, value)) + "]"
    return python_literal(value)
