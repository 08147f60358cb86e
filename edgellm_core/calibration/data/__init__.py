"""Text that a model is calibrated on or measured with, as samples of token ids without padding."""

from edgellm_core.calibration.data.calibration_set import CalibrationSet, calibration_set, held_out_set
from edgellm_core.calibration.data.settings import CalibrationDataSettings

__all__ = ["CalibrationDataSettings", "CalibrationSet", "calibration_set", "held_out_set"]
