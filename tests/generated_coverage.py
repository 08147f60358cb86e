"""The page of the walk over all decoder-only models, from its results."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from tests.coverage.model_types import NOT_DECODER_ONLY
from tests.coverage.results import STATUSES, read_results

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

INTRO: Final = """# Coverage

What edgellm does with each decoder-only causal language model that transformers registers. A tiny checkpoint with
random weights goes through two real builds (`--precision fp32` and `fp16`, `--verify full --engine none`), so the
parity gate compares single prompts, a batch with left padding, a prompt in chunks and decode steps, and the twin what
changes at a length. Its sizes are odd, and its config reaches what is special about the type, such as a window shorter
than the prompts. The twin is built for target `onnx` in float32, whatever the build's target and precision.

The error is that of a second comparison, which shares no code with the gate: a batch of two prompts with left padding
and three decode steps, run by edgellm's runtime, against transformers on each row alone, without padding and without a
cache. It is `max |a - b| / max |b|` over all logits at real positions of the fp32 bundle; up to 1e-4 is right. The fp16
bundle, its types raised to float32, may differ by 1e-2 from transformers with parameters rounded to float16: it stores
some factors of weights (`1 + w`), which round otherwise. A type that is right in one of the two only is not *right*;
*built in* names those of its last walk.

`python -m tests.coverage.walk TYPE… --write` runs some types anew, `make coverage` all of them."""

LEFT_OUT: Final = """## Not decoder-only

Types that transformers registers for causal language modelling and that are none, or not by themselves."""


def coverage_page(table: Callable[[tuple[str, ...], list[tuple[str, ...]]], str]) -> str:
    """Return the page.

    Args:
        table: makes a Markdown table of a header and rows.
    """
    results = read_results()
    types: Mapping[str, Any] = results["types"]
    counts = Counter(record["status"] for record in types.values())
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    summary = [(f"*{status}*", str(counts[status]), meaning) for status, meaning in STATUSES.items()]
    parts = [INTRO, f"{len(types)} types, with {versions}:", table(("result", "types", "meaning"), summary)]
    right = [
        (f"`{name}`", f"{record['max_rel_err']:.0e}", f"`{record['family']}`", ", ".join(record["precisions"]))
        for name, record in types.items()
        if record["status"] == "right"
    ]
    parts += ["## Right", table(("`model_type`", "error", "family", "built in"), right)]
    for status in list(STATUSES)[1:]:
        rows = [(f"`{name}`", _why(record)) for name, record in types.items() if record["status"] == status]
        if rows:
            parts += [f"## {status.capitalize()}", table(("`model_type`", "reason"), rows)]
    reasons: dict[str, list[str]] = {}
    for name, reason in NOT_DECODER_ONLY.items():
        reasons.setdefault(reason, []).append(f"`{name}`")
    parts += [LEFT_OUT, table(("reason", "types"), [(reason, ", ".join(names)) for reason, names in reasons.items()])]
    return "\n\n".join(parts)


def _why(record: Mapping[str, Any]) -> str:
    """Return the reason as text that Markdown shows as it is."""
    reason: str = record.get("reason") or f"error {record['max_rel_err']:.1e}, family {record['family']}"
    for special in "\\<*_[`":
        reason = reason.replace(special, f"\\{special}")
    return reason
