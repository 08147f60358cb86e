"""What a build is asked to do, checked before anything runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgellm_core.engine.backend import ENGINE_CHOICES
from edgellm_core.errors import InvalidSettingError, UnknownNameError
from edgellm_core.host import PluginHost
from edgellm_core.quantization.schemes import BUILT_IN
from edgellm_core.settings import ELEMENT_TYPES

if TYPE_CHECKING:
    from pathlib import Path

    from edgellm_core.engine import EngineChoice


QUALITY_CHOICES: Final = ("auto", "on", "off")
VERIFY_MODES: Final = ("auto", "full", "layers", "off")
_UNITS: Final = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """Settings of a build; every field has the command line's default.

    Attributes:
        target: form of the graph.
        precision: element type of weights and activations, or the name of a quantization scheme.
        family: name of the family to treat the model as; None lets the claims decide.
        plugin_paths: folders with further plugins.
        revision: branch, tag or commit of a hub repository.
        full_depth: trace every layer instead of stamping.
        verify: ``auto``, ``full``, ``layers`` or ``off``.
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
        trust_remote_code: let the modeling code that a checkpoint brings itself run.
        use_cache: use cached traces and finished stages.
        force: replace an existing bundle.

    Raises:
        UnknownNameError: a choice that does not exist.
        InvalidSettingError: a value out of range.
    """

    target: str = "onnx"
    precision: str = "fp16"
    family: str | None = None
    plugin_paths: tuple[Path, ...] = ()
    revision: str | None = None
    full_depth: bool = False
    verify: str = "auto"
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
    trust_remote_code: bool = False
    use_cache: bool = True
    force: bool = False

    def __post_init__(self) -> None:
        """Refuse what can't work, before anything is downloaded."""
        if self.precision not in {*ELEMENT_TYPES, *BUILT_IN}:
            known = {*ELEMENT_TYPES, *BUILT_IN, *PluginHost.load(self.plugin_paths).schemes()}
            if self.precision not in known:
                raise UnknownNameError("precision", self.precision, known)
        if self.verify not in VERIFY_MODES:
            raise UnknownNameError("verification mode", self.verify, VERIFY_MODES)
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

    @property
    def compute_precision(self) -> str:
        """Element type of everything that is not quantized."""
        return self.precision if self.precision in ELEMENT_TYPES else "fp16"


def parse_bytes(text: str) -> int:
    """Return the bytes that ``8GiB``, ``512 MB`` or ``1024`` mean.

    Raises:
        InvalidSettingError: not a size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if not found or found[2].lower() not in _UNITS:
        raise InvalidSettingError("--max-memory", "must be a size", repr(text), "Write it like 8GiB or 512MiB.")
    return int(float(found[1]) * _UNITS[found[2].lower()])
