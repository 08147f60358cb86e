"""The samples of a calibration, from the settings and a tokenizer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgellm_core.calibration.data.errors import NotEnoughTextError
from edgellm_core.calibration.data.packing import pack
from edgellm_core.calibration.data.settings import DEFAULT_SAMPLES, CalibrationDataSettings
from edgellm_core.calibration.data.sources import builtin_source, default_source, named_source
from edgellm_core.calibration.data.texts import documents_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from edgellm_core.calibration.data.errors import Purpose
    from edgellm_core.calibration.data.texts import TextSource
    from edgellm_core.contract import CalibrationData
    from edgellm_core.runtime.tokenizer import BundleTokenizer

FEWEST_SAMPLES: Final = 16
"""With no number asked for, a text that gives fewer samples is refused: statistics of less say little."""


def _say_nothing(_sentence: str) -> None:
    """Drop a sentence."""


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


def calibration_set(
    settings: CalibrationDataSettings,
    tokenizer: BundleTokenizer,
    *,
    packs: Mapping[str, type[CalibrationData]] | None = None,
    tell: Callable[[str], None] = _say_nothing,
) -> CalibrationSet:
    """Return the samples to calibrate on.

    Args:
        settings: which text, how much of it, in which order.
        tokenizer: the model's.
        packs: texts that plugins bring, by name: ``PluginHost.calibration_data``.
        tell: receives sentences that the user should see, such as ``Reporter.note``.

    Raises:
        NotEnoughTextError: the text is too short.
        UnknownNameError: there is no text of that name.
        UserError: the text can't be read; the classes in ``errors`` say why.
    """
    if settings.data is None:
        source = default_source(settings, tell)
    else:
        source = named_source(settings.data, settings, packs or {})
    found = _packed(source, settings, tokenizer, purpose="calib")
    if settings.samples is None and found.samples < DEFAULT_SAMPLES:
        tell(f"Calibrating on {found.samples} samples, all that {source.name} gives, in place of {DEFAULT_SAMPLES}.")
    return found


def held_out_set(tokenizer: BundleTokenizer, *, samples: int = 16, length: int = 512) -> CalibrationSet:
    """Return samples to measure with, of text that no calibration with ``builtin`` sees.

    Raises:
        NotEnoughTextError: more is asked for than there is.
    """
    settings = CalibrationDataSettings(samples=samples, length=length)
    return _packed(builtin_source("held_out"), settings, tokenizer, purpose="quality")


def _packed(
    source: TextSource, settings: CalibrationDataSettings, tokenizer: BundleTokenizer, *, purpose: Purpose
) -> CalibrationSet:
    wanted, length = settings.samples or DEFAULT_SAMPLES, settings.length
    documents = documents_of(source, tokenizer, chat=settings.chat, seed=settings.seed, tokens=wanted * length)
    ids, found = pack(documents, samples=wanted, length=length)
    if len(ids) < (settings.samples or FEWEST_SAMPLES):
        raise NotEnoughTextError(source.name, found=found, samples=wanted, length=length, purpose=purpose)
    digest = hashlib.sha256(ids.tobytes()).hexdigest()
    return CalibrationSet(ids=ids, source=source.name, digest=digest, chat=settings.chat)
