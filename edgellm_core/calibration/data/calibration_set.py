"""The samples of a calibration, from the settings and a tokenizer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgellm_core.calibration.data.builtin_text import builtin_description, builtin_texts
from edgellm_core.calibration.data.errors import NotEnoughTextError
from edgellm_core.calibration.data.packing import pack, shuffled, tokens_of
from edgellm_core.calibration.data.settings import DEFAULT_SAMPLES, CalibrationDataSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgellm_core.calibration.data.builtin_text import Split
    from edgellm_core.runtime.tokenizer import BundleTokenizer

FEWEST_SAMPLES: Final = 16
"""With no number asked for, a text that gives fewer samples is refused: statistics of less say little."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationSet:
    """Samples of token ids without padding.

    Attributes:
        ids: int64 ``[samples, length]``; every position is a token of a text.
        source: where the text comes from, in words.
        digest: SHA-256 of the ids, so that equal digests mean equal calibrations.
        chat: whether each text was written as a conversation.
    """

    ids: NDArray[np.int64]
    source: str
    digest: str
    chat: bool = False

    @property
    def samples(self) -> int:
        """Number of samples."""
        return int(self.ids.shape[0])

    @property
    def length(self) -> int:
        """Tokens of each sample."""
        return int(self.ids.shape[1])


def calibration_set(settings: CalibrationDataSettings, tokenizer: BundleTokenizer) -> CalibrationSet:
    """Return the samples to calibrate on.

    Args:
        settings: which text, how much of it, in which order.
        tokenizer: the model's.

    Raises:
        NotEnoughTextError: the text is too short.
    """
    return _builtin_set("calibration", settings, tokenizer)


def held_out_set(tokenizer: BundleTokenizer, *, samples: int = 16, length: int = 512) -> CalibrationSet:
    """Return samples to measure with, of text that no calibration with ``builtin`` sees.

    Raises:
        NotEnoughTextError: more is asked for than there is.
    """
    return _builtin_set("held_out", CalibrationDataSettings(samples=samples, length=length), tokenizer)


def _builtin_set(split: Split, settings: CalibrationDataSettings, tokenizer: BundleTokenizer) -> CalibrationSet:
    documents = (tokens_of(text, tokenizer) for text in shuffled(builtin_texts(split), settings.seed))
    wanted, length = settings.samples or DEFAULT_SAMPLES, settings.length
    ids, found = pack(documents, samples=wanted, length=length)
    source = builtin_description(split)
    if len(ids) < (settings.samples or FEWEST_SAMPLES):
        raise NotEnoughTextError(source, found=found, samples=wanted, length=length)
    return CalibrationSet(ids=ids, source=source, digest=hashlib.sha256(ids.tobytes()).hexdigest())
