"""The closed set of reasons for which a check may be skipped."""

from __future__ import annotations

import enum
import re
from typing import NoReturn


class SkipReason(enum.Enum):
    """Why a check can't run here.

    A check that is skipped for any other reason fails the run: a skip that nobody planned hides a defect.
    """

    NEEDS_GPU = "needs-gpu"
    NEEDS_MODELOPT = "needs-modelopt"
    NEEDS_TENSORRT = "needs-tensorrt"
    NEEDS_TENSORRT_RTX = "needs-tensorrt-rtx"
    NEEDS_TRANSFORMERS = "needs-transformers"
    NEEDS_WEIGHTS = "needs-weights"
    NO_CHAT_TEMPLATE = "no-chat-template"
    NO_REGISTRY_ENTRY = "no-registry-entry"
    NO_SCHEME = "no-scheme"

    @property
    def meaning(self) -> str:
        """What is missing, as a sentence."""
        return MEANINGS[self]

    def text(self, detail: str = "") -> str:
        """Return the text that a skip carries: ``[needs-gpu] No NVIDIA GPU is visible``, and details."""
        return " ".join(part for part in (f"[{self.value}]", self.meaning, detail) if part)


MEANINGS = {
    SkipReason.NEEDS_GPU: "No NVIDIA GPU is visible.",
    SkipReason.NEEDS_MODELOPT: 'The package nvidia-modelopt is not installed: pip install "edgellm[quantize]".',
    SkipReason.NEEDS_TENSORRT: "The package tensorrt is not installed.",
    SkipReason.NEEDS_TENSORRT_RTX: 'The package tensorrt-rtx is not installed: pip install "edgellm[rtx]".',
    SkipReason.NEEDS_TRANSFORMERS: "The installed transformers is outside the family's range.",
    SkipReason.NEEDS_WEIGHTS: "The weights are not here: install their package, give --weights or --download.",
    SkipReason.NO_CHAT_TEMPLATE: "The family brings no chat template; its checkpoints have their own.",
    SkipReason.NO_REGISTRY_ENTRY: "model_registry.yaml has no model of this family.",
    SkipReason.NO_SCHEME: "matrix.yaml has no tiny entry with a quantization scheme.",
}
"""Reason → what is missing, as a sentence."""


def skip(reason: SkipReason, detail: str = "") -> NoReturn:
    """Skip the running check."""
    import pytest

    pytest.skip(reason.text(detail))


def reason_of(text: str) -> SkipReason | None:
    """Return the reason that a skip's text carries; None where it is not one of the set."""
    found = re.match(r"\[([a-z-]+)\]", text)
    values = {reason.value: reason for reason in SkipReason}
    return values.get(found[1]) if found else None
