"""Reads Google-style docstrings and writes them as Markdown."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

SECTIONS: Final = ("Args", "Attributes", "Raises", "Returns", "Yields")


@dataclass(frozen=True, kw_only=True)
class Docstring:
    """A docstring in parts.

    Attributes:
        paragraphs: text before, between and after the sections, as Markdown.
        sections: name of the section → entries, name → meaning; a section without names has one entry of name "".
    """

    paragraphs: list[str] = field(default_factory=list)
    sections: dict[str, dict[str, str]] = field(default_factory=dict)

    def text(self) -> str:
        """Return the text without the sections."""
        return "\n\n".join(self.paragraphs)

    def to_markdown(self) -> str:
        """Return the text, then each section as a list."""
        parts = list(self.paragraphs)
        for name, entries in self.sections.items():
            if set(entries) == {""}:
                parts.append(f"{name}: {entries['']}")
            else:
                lines = [f"- `{entry}`: {meaning}" for entry, meaning in entries.items()]
                parts.append(f"{name}:\n\n" + "\n".join(lines))
        return "\n\n".join(parts)


def parse_docstring(text: str) -> Docstring:
    """Take a docstring, cleaned of its indentation, apart."""
    parsed = Docstring()
    for block in re.split(r"\n\s*\n", text.strip()):
        head, _, body = block.partition("\n")
        if head.rstrip(":") in SECTIONS and head.endswith(":"):
            parsed.sections[head.rstrip(":")] = _entries(body)
        else:
            parsed.paragraphs.append(to_markdown(block))
    return parsed


def _entries(body: str) -> dict[str, str]:
    """Return the entries of a section; deeper lines continue the entry before."""
    entries: dict[str, str] = {}
    current = ""
    for line in body.splitlines():
        named = re.fullmatch(r"    (\*{0,2}\w+): (.*)", line)
        if named:
            current = named[1]
            entries[current] = named[2]
        else:
            entries[current] = f"{entries.get(current, '')} {line.strip()}".strip()
    return {name: to_markdown(meaning) for name, meaning in entries.items()}


def first_line(text: str) -> str:
    """Return the first line of a docstring as Markdown."""
    return to_markdown(text.strip().partition("\n")[0])


def to_markdown(text: str) -> str:
    """Turn the reStructuredText that the docstrings use into Markdown: literals, roles and literal blocks."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text)
    text = re.sub(r"``(.+?)``", r"`\1`", text)
    return re.sub(r"::\n\n((?:    .*\n|\n)+)", _fence, text + "\n").rstrip("\n")


def _fence(block: re.Match[str]) -> str:
    lines = [line[4:] for line in block[1].rstrip("\n").splitlines()]
    return ":\n\n```python\n" + "\n".join(lines) + "\n```\n\n"
