"""Why a text can't be used for calibration, one class per cause."""

from __future__ import annotations

from edgellm_core.errors import UserError


class NotEnoughTextError(UserError):
    """The text gives fewer tokens than the samples take."""

    def __init__(self, source: str, *, found: int, samples: int, length: int) -> None:
        """Build ``Calibration needs 512 samples × 512 tokens = 262144; … has 900. …``."""
        whole = found // length
        if found == 0:
            remedy = "It holds no text; give another one with --calib-data, or leave the option out."
        elif whole:
            remedy = f"Give --calib-samples {whole}, a shorter --calib-length, or more text."
        else:
            remedy = f"Give a --calib-length of at most {found}, or more text."
        super().__init__(
            f"Calibration needs {samples} samples of {length} tokens, {samples * length} in all; {source} has {found}. "
            f"{remedy}"
        )
