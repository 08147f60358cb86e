"""What a build is asked to do, checked before anything runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgellm_core.engine.backend import ENGINE_CHOICES
from edgellm_core.errors import InvalidSettingError, UnknownNameError
from edgellm_core.pipeline.quantization_settings import QuantizationSettings

if TYPE_CHECKING:
    from edgellm_core.engine import EngineChoice


QUALITY_CHOICES: Final = ("auto", "on", "off")
SCORE_CHOICES: Final = ("auto", "fp32")
VERIFY_MODES: Final = ("full", "off")
_UNITS: Final = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


@dataclass(frozen=True, kw_only=True)
class BuildSettings(QuantizationSettings):
    """Settings of a build, besides those of a quantization; every field has the command line's default.

    Attributes:
        target: form of the graph.
        attention_scores: ``auto`` computes attention in the type of the graph, ``fp32`` in float32.
        full_depth: trace every layer instead of stamping.
        verify: ``full`` or ``off``.
        quality: whether to measure on held-out text what the precision costs: ``on``, ``off``, or ``auto`` for
            quantized builds and where there is a limit.
        quality_samples: samples of that text.
        quality_length: tokens of each.
        max_kl: largest mean KL divergence from the original, in nats; None for any.
        engine: ``auto``, ``none``, ``tensorrt`` or ``tensorrt-rtx``.
        compute_capability: 10 * major + minor of the GPU that the engine is for; None for the builder's default.
        max_batch_size: largest batch of the engine; None for its default.
        max_input_len: longest prompt of the engine; None for its default.
        max_seq_len: longest sequence of the engine; None for its default.
        max_memory: budget of main memory in bytes; None for what is free.

    Raises:
        UnknownNameError: a choice that does not exist.
        InvalidSettingError: a value out of range.
    """

    target: str = "onnx"
    attention_scores: str = "auto"
    full_depth: bool = False
    verify: str = "full"
    quality: str = "auto"
    quality_samples: int = 16
    quality_length: int = 512
    max_kl: float | None = None
    engine: EngineChoice = "auto"
    compute_capability: int | None = None
    max_batch_size: int | None = None
    max_input_len: int | None = None
    max_seq_len: int | None = None
    max_memory: int | None = None

    def __post_init__(self) -> None:
        """Refuse what can't work, before anything is downloaded."""
        super().__post_init__()
        if self.verify not in VERIFY_MODES:
            raise UnknownNameError("verification mode", self.verify, VERIFY_MODES)
        if self.attention_scores not in SCORE_CHOICES:
            raise UnknownNameError("value of --attention-scores", self.attention_scores, SCORE_CHOICES)
        self._check_quality()
        if self.engine not in ENGINE_CHOICES:
            raise UnknownNameError("engine", self.engine, ENGINE_CHOICES)
        if self.max_input_len is not None and self.max_seq_len is not None and self.max_input_len > self.max_seq_len:
            raise InvalidSettingError(
                "--max-input-len",
                f"must not exceed --max-seq-len ({self.max_seq_len})",
                self.max_input_len,
                "Lower --max-input-len or raise --max-seq-len.",
            )

    def _check_quality(self) -> None:
        if self.quality not in QUALITY_CHOICES:
            raise UnknownNameError("value of --quality", self.quality, QUALITY_CHOICES)
        if self.max_kl is not None:
            if not self.max_kl >= 0:
                raise InvalidSettingError("--max-kl", "must be at least 0", self.max_kl, "Leave it out for no limit.")
            if self.quality == "off":
                raise InvalidSettingError("--max-kl", "needs --quality on or auto", "--quality off", "Leave one out.")
        for name, least in (("quality_samples", 1), ("quality_length", 2)):
            if getattr(self, name) < least:
                option = f"--{name.replace('_', '-')}"
                raise InvalidSettingError(option, f"must be at least {least}", getattr(self, name), "Raise it.")


def parse_bytes(text: str) -> int:
    """Return the bytes that ``8GiB``, ``512 MB`` or ``1024`` mean.

    Raises:
        InvalidSettingError: not a size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if not found or found[2].lower() not in _UNITS:
        raise InvalidSettingError("--max-memory", "must be a size", repr(text), "Write it like 8GiB or 512MiB.")
    return int(float(found[1]) * _UNITS[found[2].lower()])
