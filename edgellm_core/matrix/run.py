"""Runs one case as a real build, with full verification, in a temporary directory."""

from __future__ import annotations

import tempfile
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from edgellm_core.errors import EdgellmError, UnknownNameError
from edgellm_core.settings import ELEMENT_TYPES

if TYPE_CHECKING:
    from edgellm_core.engine import EngineChoice
    from edgellm_core.matrix.selection import MatrixCase
    from edgellm_core.pipeline.settings import BuildSettings

Outcome = Literal["passed", "failed", "crashed", "xfailed", "xpassed", "skipped"]
"""``crashed``: something else than a refusal ended it. ``xpassed``: it was expected to fail, and passed."""

BAD: Final = ("failed", "crashed", "xpassed")
"""Outcomes that make a run fail; expected failures are strict."""

TINY_CALIBRATION: Final = {"calib_data": "builtin", "calib_samples": 8, "calib_length": 16}
"""What a tiny checkpoint is calibrated on: its weights are random, so any text does, and its context is short."""

_ONE_BUILD: Final = threading.Lock()
"""Tracing replaces functions of transformers for the whole process, and Dask runs tasks in threads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """What all cases of a run share.

    Attributes:
        engine: as in ``BuildSettings``.
        plugin_paths: folders with further plugins.

    Raises:
        UnknownNameError: an engine that does not exist.
    """

    engine: EngineChoice = "none"
    plugin_paths: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a wrong engine once, and not in every case."""
        from edgellm_core.engine.backend import ENGINE_CHOICES

        if self.engine not in ENGINE_CHOICES:
            raise UnknownNameError("engine", self.engine, ENGINE_CHOICES)


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseResult:
    """What became of one case.

    Attributes:
        case: the case.
        outcome: what became of it.
        seconds: wall-clock seconds.
        message: why it failed or was skipped; empty if it passed.
        details: the traceback of a crash; else empty.
        max_rel_err: largest error against the original; None unless it was compared.
    """

    case: MatrixCase
    outcome: Outcome
    seconds: float = 0.0
    message: str = ""
    details: str = ""
    max_rel_err: float | None = None

    @property
    def bad(self) -> bool:
        """Whether it makes the run fail."""
        return self.outcome in BAD

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON types."""
        case = {"family": self.case.family, "entry": str(self.case.entry), "tier": self.case.tier}
        fields = asdict(self)
        del fields["case"]
        return case | fields


def run_case(case: MatrixCase, settings: RunSettings = RunSettings()) -> CaseResult:
    """Build and verify one case; nothing is raised but what asks the process to stop.

    A case whose entry asks for what the product does not have is skipped, and the message names it.
    """
    missing = case.entry.unavailable()
    if missing:
        return CaseResult(case=case, outcome="skipped", message=f"Not yet: {'; '.join(missing)}.")
    with _ONE_BUILD:
        started = time.perf_counter()
        outcome: Outcome = "passed"
        message, details, error = "", "", None
        try:
            error = _build(case, settings)
        except EdgellmError as refusal:
            outcome, message = "failed", str(refusal)
        except Exception as crash:  # noqa: BLE001  # a defect that one entry finds must not hide the other results
            outcome, message, details = "crashed", f"{type(crash).__name__}: {crash}", traceback.format_exc()
        seconds = round(time.perf_counter() - started, 3)
    if case.xfail is not None:
        outcome = "xpassed" if outcome == "passed" else "xfailed"
        message = f"Expected to fail ({case.xfail}), and " + (f"failed: {message}" if message else "passed.")
    return CaseResult(case=case, outcome=outcome, seconds=seconds, message=message, details=details, max_rel_err=error)


def build_settings(case: MatrixCase, settings: RunSettings) -> BuildSettings:
    """Return the settings of a case's build: the entry's precision and limits, and full verification."""
    from edgellm_core.pipeline.settings import BuildSettings

    entry = case.entry
    quantized: dict[str, Any] = {}
    if entry.quantizes:
        head = entry.lm_head_precision
        quantized = {
            "lm_head": None if head in ELEMENT_TYPES else head,
            "kv_cache": "fp8" if entry.fp8_kv_cache else None,
            "quality": "off",
            **(TINY_CALIBRATION if entry.tiny else {}),
        }
    return BuildSettings(
        **quantized,
        precision=entry.precision,
        family=case.family,
        plugin_paths=settings.plugin_paths,
        verify="full",
        engine=settings.engine,
        max_batch_size=entry.max_batch_size,
        max_input_len=entry.max_input_len,
        max_seq_len=entry.max_seq_len,
    )


def _build(case: MatrixCase, settings: RunSettings) -> float | None:
    """Build a case and return the error that verification measured."""
    from edgellm_core.pipeline.build import build

    with tempfile.TemporaryDirectory(prefix="edgellm-matrix-") as temporary:
        folder = Path(temporary)
        source = _write_tiny(case, settings, folder) if case.entry.tiny else case.entry.model.lower()
        bundle = build(source, folder / "bundle", build_settings(case, settings))
        return bundle.manifest.verification.max_rel_err


def _write_tiny(case: MatrixCase, settings: RunSettings, folder: Path) -> str:
    """Write the family's tiny checkpoint with random float32 weights."""
    from edgellm_core.host import PluginHost
    from edgellm_core.testing.checkpoints import write_family_checkpoint

    family = PluginHost.load(settings.plugin_paths).select({}, forced=case.family).family
    return str(write_family_checkpoint(folder / case.family, family))
