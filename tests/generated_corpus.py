"""The page of the corpus, from its cases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.corpus.case import all_cases

if TYPE_CHECKING:
    from collections.abc import Callable

INTRO: Final = """# Corpus

Small checkpoints of the kinds that people have, and what `edgellm build` does with each. `tests/corpus/` writes and
builds them all. A *right* bundle is compared with transformers by code that shares nothing with the parity gate: long
prompts read whole, in chunks and with left padding, and greedy answers against `generate`. A *refused* checkpoint ends
with the message, and nothing is published."""


def corpus_page(table: Callable[[tuple[str, ...], list[tuple[str, ...]]], str]) -> str:
    """Return the page.

    Args:
        table: makes a Markdown table of a header and rows.
    """
    cases = all_cases()
    parts = [INTRO, f"{len(cases)} cases."]
    for topic in sorted({case.topic for case in cases}):
        rows = [
            (f"`{case.name}`", case.summary, _settings(case.settings), case.outcome, case.message or case.note)
            for case in cases
            if case.topic == topic
        ]
        title = topic.replace("_", " ").capitalize()
        parts.append(f"## {title}\n\n" + table(("case", "what it is", "settings", "outcome", "message"), rows))
    return "\n\n".join(parts)


def _settings(settings: Any) -> str:
    return ", ".join(f"{name}={_shown(value)}" for name, value in settings.items())


def _shown(value: Any) -> str:
    """Return a value as text; of a path its name, which is the same on every machine."""
    if isinstance(value, (tuple, list)):
        return ", ".join(map(_shown, value))
    return value.name if isinstance(value, Path) else str(value)
