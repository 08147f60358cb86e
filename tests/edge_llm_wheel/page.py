"""The tables of the comparison with the wheel, from its results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.edge_llm_wheel.checkpoints import CONFIGS, SCHEMES
from tests.edge_llm_wheel.results import STATUSES, read_results

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def wheel_tables(table: Callable[[tuple[str, ...], list[tuple[str, ...]]], str]) -> str:
    """Return family × scheme, what the words mean, and the reasons.

    Args:
        table: makes a Markdown table of a header and rows.
    """
    results = read_results()
    cases: Mapping[str, Any] = results["cases"]
    statuses = {name: record["ours"]["status"] for name, record in cases.items()}
    words = {name: f"*{status}*" for name, status in statuses.items()}
    rows = [(f"`{family}`", *(words.get(f"{family}-{scheme}", "") for scheme in SCHEMES)) for family in CONFIGS]
    reasons: dict[str, list[str]] = {}
    for name, record in cases.items():
        for why in record["ours"].get("differences", [record["ours"].get("reason")]):
            reasons.setdefault(plain(why), []).append(f"`{name}`")
    nodes = [
        (f"`{name}`", str(record["ours"].get("nodes", "")), str(record["wheel"]["nodes"]))
        for name, record in cases.items()
    ]
    parts = [
        "With " + ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + ":",
        table(("family", *(f"`{scheme}`" for scheme in SCHEMES)), rows),
        table(("word", "meaning"), [(f"*{name}*", STATUSES[name]) for name in STATUSES if name in statuses.values()]),
    ]
    if reasons:
        parts.append(table(("what or why", "cases"), [(why, ", ".join(names)) for why, names in reasons.items()]))
    return "\n\n".join([*parts, table(("two layers", "our nodes", "its nodes"), nodes)])


def plain(text: str) -> str:
    """Return text that Markdown shows as it is."""
    for special in "\\<*_[`":
        text = text.replace(special, f"\\{special}")
    return text
