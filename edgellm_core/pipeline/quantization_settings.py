"""What a quantization is asked to do, checked before anything runs; a build has the same settings."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, get_args

from edgellm_core.calibration.data import CalibrationDataSettings
from edgellm_core.calibration.request import Device, QuantizationRequest
from edgellm_core.contract import Rounding
from edgellm_core.errors import InvalidSettingError, UnknownNameError
from edgellm_core.host import PluginHost
from edgellm_core.quantization.schemes import BUILT_IN, find_scheme
from edgellm_core.settings import ELEMENT_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgellm_core.contract import QuantizationScheme

DEVICES: Final = get_args(Device)
ROUNDINGS: Final = get_args(Rounding)
KV_CACHES: Final = ("fp8",)


@dataclass(frozen=True, kw_only=True)
class QuantizationSettings:
    """Settings of a quantization; every field has the command line's default.

    Attributes:
        precision: element type of weights and activations, or the name of a quantization scheme.
        lm_head: scheme of the head; None leaves it in floats.
        kv_cache: ``fp8`` measures scales of keys and values; None leaves the cache in floats.
        group_size: inputs that share one scale; None for the largest of the scheme that divides every layer.
        rounding: ``nearest`` or ``compensated``; None for the way of the scheme.
        skip: patterns of module paths that stay in floats, like ``model.layers.0.*``.
        calib_data: text to calibrate on: a name, a hub data set id or a file; None for a default.
        calib_samples: samples; None for 512, or as many as a shorter text gives.
        calib_length: tokens of each sample.
        calib_seed: decides the order of the texts.
        calib_column: column of a data set or table; None for ``text``.
        calib_chat: write each text as a conversation in the model's chat template.
        device: where to calibrate: ``auto``, ``cpu`` or ``cuda``.
        family: name of the family to treat the model as; None lets the claims decide.
        plugin_paths: folders with further plugins.
        revision: branch, tag or commit of a hub repository.
        trust_remote_code: let the modeling code that a checkpoint brings itself run.
        use_cache: use cached traces and finished stages.
        force: replace an existing output.
        wait: wait for another process that writes the same output, instead of refusing.

    Raises:
        UnknownNameError: a choice that does not exist.
        InvalidSettingError: a value out of range, or without effect.
    """

    precision: str = "fp16"
    lm_head: str | None = None
    kv_cache: str | None = None
    group_size: int | None = None
    rounding: Rounding | None = None
    skip: tuple[str, ...] = ()
    calib_data: str | None = None
    calib_samples: int | None = None
    calib_length: int = 512
    calib_seed: int = 0
    calib_column: str | None = None
    calib_chat: bool = False
    device: Device = "auto"
    family: str | None = None
    plugin_paths: tuple[Path, ...] = ()
    revision: str | None = None
    trust_remote_code: bool = False
    use_cache: bool = True
    force: bool = False
    wait: bool = True

    def __post_init__(self) -> None:
        """Refuse what can't work, before anything is downloaded."""
        self._check_scheme("precision", self.precision, ELEMENT_TYPES)
        if self.lm_head is not None:
            self._check_scheme("quantization scheme", self.lm_head, ())
        if self.kv_cache is not None and self.kv_cache not in KV_CACHES:
            raise UnknownNameError("KV cache precision", self.kv_cache, KV_CACHES)
        if self.rounding is not None and self.rounding not in ROUNDINGS:
            raise UnknownNameError("rounding", self.rounding, ROUNDINGS)
        if self.device not in DEVICES:
            raise UnknownNameError("device", self.device, DEVICES)
        if not self.quantizes:
            self._refuse_idle_settings()
        self.calibration_data()

    def _check_scheme(self, kind: str, name: str, others: Mapping[str, str] | tuple[()]) -> None:
        if name in {*others, *BUILT_IN}:
            return
        known = {*others, *BUILT_IN, *PluginHost.load(self.plugin_paths).schemes()}
        if name not in known:
            raise UnknownNameError(kind, name, known)

    def _refuse_idle_settings(self) -> None:
        given = {"--lm-head": self.lm_head, "--kv-cache": self.kv_cache, "--group-size": self.group_size}
        given["--rounding"] = self.rounding
        for option, value in {**given, "--skip": ", ".join(self.skip) or None}.items():
            if value is not None:
                remedy = f"Give a scheme as --precision, for example fp8, or leave {option} out."
                raise InvalidSettingError(
                    option, f"needs a --precision that quantizes, not {self.precision}", value, remedy
                )

    def decisive(self) -> dict[str, Any]:
        """Return the settings that decide what a quantization writes; those of a build's other stages do not."""
        idle = {"plugin_paths", "revision", "use_cache", "force", "wait"}
        return {
            field.name: getattr(self, field.name) for field in fields(QuantizationSettings) if field.name not in idle
        }

    @property
    def quantizes(self) -> bool:
        """Whether the precision is a quantization scheme."""
        return self.precision not in ELEMENT_TYPES

    @property
    def compute_precision(self) -> str:
        """Element type of everything that is not quantized."""
        return "fp16" if self.quantizes else self.precision

    def calibration_data(self) -> CalibrationDataSettings:
        """Return the settings of the text to calibrate on."""
        return CalibrationDataSettings(
            data=self.calib_data,
            samples=self.calib_samples,
            length=self.calib_length,
            seed=self.calib_seed,
            column=self.calib_column,
            chat=self.calib_chat,
        )

    def request(self, schemes: Mapping[str, type[QuantizationScheme]]) -> QuantizationRequest:
        """Return what calibration is asked to do.

        Args:
            schemes: schemes that plugins bring.
        """
        return QuantizationRequest(
            scheme=find_scheme(self.precision, schemes),
            lm_head=None if self.lm_head is None else find_scheme(self.lm_head, schemes),
            group_size=self.group_size,
            rounding=self.rounding,
            kv_cache=self.kv_cache,
            skip=self.skip,
            device=self.device,
        )
