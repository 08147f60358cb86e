"""The page of the limits of what is read from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

LIMITS_INTRO: Final = """# Limits

What edgellm reads comes from others: checkpoints, GGUF files, bundles, text, YAML. Each reader has a limit, several
times the largest real file that is known, and checks it before the work that it bounds. What is larger is refused with
one sentence. FIFOs, sockets and devices are refused wherever a file is read."""


def limits_page(table: Callable[[tuple[str, ...], list[tuple[str, ...]]], str]) -> str:
    """Return the page.

    Args:
        table: makes a Markdown table of a header and rows.
    """
    from edgellm_core.untrusted.limits import ALL

    rows = [(limit.what, limit.shown(), limit.bounds) for limit in ALL]
    return f"{LIMITS_INTRO}\n\n{table(('of', 'at most', 'it bounds'), rows)}"
