"""The text that a build calibrates on, in the model's own tokens and no longer than its context."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm_core.calibration.data import calibration_set
from edgellm_core.checkpoint.dimensions import read_dimensions, stated_context_length
from edgellm_core.runtime.generate import require_known
from edgellm_core.runtime.tokenizer import BundleTokenizer
from edgellm_core.tokenization.writing import write_tokenizer

if TYPE_CHECKING:
    from edgellm_core.calibration.data import CalibrationSet
    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.events import Reporter
    from edgellm_core.host import PluginHost, Selection
    from edgellm_core.pipeline.quantization_settings import QuantizationSettings


def calibration_text(
    checkpoint: Checkpoint,
    selection: Selection,
    settings: QuantizationSettings,
    *,
    host: PluginHost,
    report: Reporter,
) -> CalibrationSet:
    """Return the samples to calibrate on.

    The tokenizer is that of the bundle: one of an older form is converted, and a family's chat template stands in for
    a missing one.

    Args:
        checkpoint: the model.
        selection: its family.
        settings: which text.
        host: plugins, which may bring texts.
        report: told which text it is.

    Raises:
        UserError: the text or the tokenizer can't be read; one class per cause.
    """
    data = settings.calibration_data()
    context = stated_context_length(checkpoint.config)
    if context is not None and context < data.length:
        report.note(f"Samples have {context} tokens in place of {data.length}: the model's context is no longer.")
        data = replace(data, length=context)
    with tempfile.TemporaryDirectory(prefix="edgellm-tokenizer-") as folder:
        write_tokenizer(checkpoint, selection.family, Path(folder), report, compared=False)
        tokenizer = BundleTokenizer(Path(folder))
        text = calibration_set(data, tokenizer, packs=host.calibration_data(), tell=report.note)
    require_known(text.ids.flat, read_dimensions(checkpoint.config).vocab_size)
    report.note(f"Calibrating on {text.samples} × {text.length} tokens of {text.source}.")
    return text
