"""The numbers of a comparison, as ``compare.json`` has them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionResult:
    """One precision.

    Attributes:
        precision: its name.
        error: why it could not be built or run; None where it was. All that follows then is None or empty.
        bundle: folder of the bundle, relative to the report.
        bytes: size of the bundle on disk.
        linear_bytes: size of the linear layers' weights and scales, without the head.
        linear_share: that size as a share of the same weights' size in float16.
        perplexity: on held-out text.
        kl: mean KL divergence from the original, in nats.
        top1_agreement: share of positions with the original's most likely token, 0 to 1.
        build_seconds: wall-clock time of the build.
        build_peak_mib: highest resident set size of the build, in MiB.
        run_mib: what loading the graph and answering the prompts added to the resident set, in MiB.
        tokens_per_second: speed of the answers on this machine's CPU.
        layer_errors: mean relative error of the hidden state before the first decoder layer and after each.
        answers: one for each prompt.
    """

    precision: str
    error: str | None = None
    bundle: str | None = None
    bytes: int | None = None
    linear_bytes: int | None = None
    linear_share: float | None = None
    perplexity: float | None = None
    kl: float | None = None
    top1_agreement: float | None = None
    build_seconds: float | None = None
    build_peak_mib: float | None = None
    run_mib: float | None = None
    tokens_per_second: float | None = None
    layer_errors: tuple[float, ...] = ()
    answers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A model in several precisions.

    Attributes:
        source: the model, as it was given.
        reference: what all are compared with, in words.
        text: held-out text that they are measured on, in words; empty where they could not be.
        tokens: positions at which the next token was predicted.
        not_measured: why the quality was not measured; None where it was.
        original_perplexity: of the original on that text.
        prompts: what all answered.
        original_answers: the original's answers; empty where it did not fit in memory.
        results: one for each precision, in the order that was asked for.
    """

    source: str
    reference: str
    text: str
    tokens: int
    not_measured: str | None
    original_perplexity: float | None
    prompts: tuple[str, ...]
    original_answers: tuple[str, ...]
    results: tuple[PrecisionResult, ...]

    @property
    def failed(self) -> dict[str, str]:
        """Why each precision failed that did."""
        return {result.precision: result.error for result in self.results if result.error is not None}

    def write_json(self, path: Path) -> None:
        """Write ``compare.json``."""
        path.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
