"""The file of results: versions, and one line for each model type."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any, Final

PATH: Final = Path(__file__).with_name("results.json")

STATUSES: Final = {
    "right": "the bundle was published and equals the original",
    "refused": "edgellm said that it can't, and why",
    "caught": "the graph was wrong, the parity gate said so, and nothing was published",
    "wrong": "a bundle was published that differs from the original",
    "crashed": "something else than a refusal: an exception, or no end in time",
}
"""Status → what it means; the last two must not occur."""

PACKAGES: Final = ("transformers", "torch", "onnxruntime")

Record = dict[str, Any]


def installed() -> dict[str, str]:
    """Return package → version without the local part (``+cpu``)."""
    return {name: importlib.metadata.version(name).partition("+")[0] for name in PACKAGES}


def read_results() -> dict[str, Any]:
    """Return ``{"versions": {package: version}, "types": {model type: record}}``."""
    results: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    return results


def write_results(types: dict[str, Record]) -> None:
    """Write records of the installed versions, sorted, one line each."""
    lines = [f"    {json.dumps(name)}: {json.dumps(types[name], ensure_ascii=False)}" for name in sorted(types)]
    versions = json.dumps(installed())
    text = f'{{\n  "versions": {versions},\n  "types": {{\n' + ",\n".join(lines) + "\n  }\n}\n"
    fresh = PATH.with_suffix(".tmp")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(PATH)  # whole at any time, for a second walk beside this one


def merge_results(fresh: dict[str, Record]) -> dict[str, Record]:
    """Return the recorded types with fresh ones instead; only the fresh ones where the versions are others."""
    known = read_results() if PATH.is_file() else {"versions": None, "types": {}}
    return {**(known["types"] if known["versions"] == installed() else {}), **fresh}
