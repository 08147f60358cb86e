"""The file of results: the versions, and one line for each case."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any, Final

from tests.edge_llm_wheel.checkpoints import CASES
from tests.edge_llm_wheel.environment import WHEEL

PATH: Final = Path(__file__).with_name("results.json")

STATUSES: Final = {
    "identical": "nothing that a runtime reads differs",
    "rounded": "identical but for floats within one unit of the last place of float16, listed below",
    "different": "the differences are listed below",
    "refused": "edgellm builds nothing and says why",
}
"""Status of our export → what it means."""

Record = dict[str, Any]


def versions() -> dict[str, str]:
    """Return what the results depend on, without local parts of versions."""
    name, _, version = WHEEL.partition("==")
    own = {package: importlib.metadata.version(package).partition("+")[0] for package in ("torch", "transformers")}
    return {name: version, **own}


def read_results() -> dict[str, Any]:
    """Return ``{"versions": {package: version}, "cases": {"family-scheme": record}}``."""
    results: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    return results


def write_results(records: dict[str, Record]) -> None:
    """Write the records in the order of the cases, one line each."""
    names = ["-".join(case) for case in CASES]
    lines = [f"    {json.dumps(name)}: {json.dumps(records[name], ensure_ascii=False)}" for name in names]
    text = f'{{\n  "versions": {json.dumps(versions())},\n  "cases": {{\n' + ",\n".join(lines) + "\n  }\n}\n"
    PATH.write_text(text, encoding="utf-8")
