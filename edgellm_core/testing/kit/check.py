"""Marks a test function as a check of the kit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from edgellm_core.testing.kit.marker import CHECK

if TYPE_CHECKING:
    from edgellm_core.testing.kit.plan import Per

Function = TypeVar("Function", bound=Callable[..., Any])


def check(level: int, *, per: Per = "family") -> Callable[[Function], Function]:
    """Return the decorator of a check.

    Args:
        level: 0 to 4.
        per: whether it runs once for each family, or once for each model of the family in the registry.
    """
    mark = getattr(pytest.mark, CHECK)(level=level, per=per)

    def decorate(function: Function) -> Function:
        decorated: Function = mark(function)
        return decorated

    return decorate
