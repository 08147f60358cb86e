"""Which text a model is calibrated on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgellm_core.errors import InvalidSettingError

DEFAULT_SAMPLES: Final = 512
DEFAULT_LENGTH: Final = 512
"""Samples of a calibration, and tokens of a sample: what ModelOpt's ``hf_ptq`` example calibrates with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationDataSettings:
    """Text of a calibration; every field has the command line's default.

    Attributes:
        data: ``--calib-data``: a name, a hub data set id or a file; None for cnn_dailymail where the hub answers and
            builtin where it does not.
        samples: ``--calib-samples``; None for 512, or as many as a shorter text gives.
        length: ``--calib-length``, tokens of each sample.
        seed: ``--calib-seed``, decides the order of the texts.
        column: ``--calib-column`` of a data set or table; None for ``text``, or whatever the named data set has.
        chat: ``--calib-chat``, write each text as a conversation in the model's chat template.

    Raises:
        InvalidSettingError: a value out of range.
    """

    data: str | None = None
    samples: int | None = None
    length: int = DEFAULT_LENGTH
    seed: int = 0
    column: str | None = None
    chat: bool = False

    def __post_init__(self) -> None:
        """Refuse what can't work, before any text is read."""
        if self.samples is not None and self.samples < 1:
            raise InvalidSettingError("--calib-samples", "must be at least 1", self.samples, "Leave it out for 512.")
        if self.length < 2:
            raise InvalidSettingError("--calib-length", "must be at least 2", self.length, "Leave it out for 512.")
