"""The page of every error class of the core, found in the source so that nothing heavy is imported."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.docstrings import first_line

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT: Final = Path(__file__).parents[1]

ERRORS_INTRO: Final = """# Errors

Every error that edgellm raises on purpose. The command line prints the message and exits with code 1. In Python all of
them are `edgellm_core.errors.EdgellmError`.

- *user*: the input or a setting is wrong.
- *plugin*: a plugin broke its contract.
- *internal*: edgellm or one of its tools failed.
- *resumable*: finished stages are kept for the next attempt.

[Debug a refusal](../how-to/debug-a-refusal.md) says what to do."""


def errors_page(table: Callable[[tuple[str, ...], list[tuple[str, ...]]], str]) -> str:
    """Return the page.

    Args:
        table: makes a Markdown table of a header and rows.
    """
    parts = [ERRORS_INTRO]
    for module, classes in error_classes().items():
        rows = [(f"`{name}`", kind, "yes" if resumable else "", meaning) for name, kind, resumable, meaning in classes]
        parts.append(f"## {module}\n\n" + table(("error", "kind", "resumable", "cause"), rows))
    return "\n\n".join(parts)


def error_classes() -> dict[str, list[tuple[str, str, bool, str]]]:
    """Return name, kind, resumable and cause of each error class, by module."""
    kinds: dict[str, tuple[str, bool]] = {"EdgellmError": ("internal", False)}
    found: dict[str, list[tuple[str, str, bool, str]]] = {}
    definitions = [
        (".".join(path.relative_to(ROOT).with_suffix("").parts), node)
        for path in sorted((ROOT / "edgellm_core").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    definitions.sort(key=lambda item: item[0] != "edgellm_core.errors")  # the bases first
    waiting = True
    while waiting:
        waiting = False
        for module, node in list(definitions):
            base = next((base.id for base in node.bases if isinstance(base, ast.Name) and base.id in kinds), None)
            if base is None:
                continue
            kind = {"UserError": "user", "PluginError": "plugin"}.get(node.name, kinds[base][0])
            resumable = kinds[base][1] or _sets_resumable(node)
            kinds[node.name] = (kind, resumable)
            found.setdefault(module, []).append((node.name, kind, resumable, first_line(ast.get_docstring(node) or "")))
            definitions.remove((module, node))
            waiting = True
    return found


def _sets_resumable(node: ast.ClassDef) -> bool:
    return any(isinstance(item, ast.Assign) and ast.unparse(item) == "resumable = True" for item in node.body)
