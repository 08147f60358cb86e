"""Choosing the next token from logits: greedy, or drawn after repetition penalty, temperature, top-k and top-p.

The order is that of transformers' ``generate``: repetition penalty, temperature, top-k, top-p.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgellm_core.errors import InvalidSettingError
from edgellm_core.runtime.logits_processors import Logits, penalize_repetition

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingSettings:
    """How the next token is chosen; the defaults are greedy.

    Attributes:
        temperature: divides the logits; 0 for greedy.
        top_k: draw from the k most likely tokens only; 0 for all.
        top_p: draw from the smallest set of most likely tokens whose probabilities reach this sum; 1 for all.
        repetition_penalty: divides positive and multiplies negative logits of tokens seen before; 1 for none, None for
            what the model's own settings say. Source: CTRL, https://arxiv.org/abs/1909.05858, section 4.1, with the
            sign rule of transformers.
        seed: seed of the drawing; None for another one each time.

    Raises:
        InvalidSettingError: a value is out of its range, or has no effect because ``temperature`` is 0.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        penalty = self.repetition_penalty
        ranges = (
            ("--temperature", self.temperature, self.temperature >= 0, "must be at least 0"),
            ("--top-k", self.top_k, self.top_k >= 0, "must be at least 0"),
            ("--top-p", self.top_p, 0 < self.top_p <= 1, "must be above 0 and at most 1"),
            ("--repetition-penalty", penalty, penalty is None or penalty > 0, "must be above 0"),
            ("--seed", self.seed, self.seed is None or self.seed >= 0, "must be at least 0"),
        )
        for setting, value, fits, requirement in ranges:
            if not fits:
                raise InvalidSettingError(setting, requirement, value, "Change it.")
        if self.temperature == 0:
            for setting, value, neutral in (("--top-k", self.top_k, 0), ("--top-p", self.top_p, 1.0)):
                if value != neutral:
                    raise InvalidSettingError(
                        setting, "has no effect on greedy answers", value, "Add --temperature, for example 0.7."
                    )


class Sampler:
    """Chooses one token after the other; holds the random state."""

    def __init__(self, settings: SamplingSettings | None = None) -> None:
        self._settings = settings or SamplingSettings()
        self._random = np.random.default_rng(self._settings.seed)

    def __call__(self, logits: Logits, history: Sequence[int]) -> int:
        """Return the next token.

        Args:
            logits: float32 [vocab].
            history: all tokens so far, prompt and answer.
        """
        penalty = self._settings.repetition_penalty
        scores = logits if penalty is None else penalize_repetition(logits, history, penalty)
        if self._settings.temperature == 0:
            return int(np.argmax(scores))
        scores = scores / np.float32(self._settings.temperature)
        probabilities = softmax(keep_top_p(keep_top_k(scores, self._settings.top_k), self._settings.top_p))
        return int(self._random.choice(len(probabilities), p=probabilities))


def keep_top_k(logits: Logits, count: int) -> Logits:
    """Return logits with all but the ``count`` highest at minus infinity; ties with the lowest of them stay."""
    if count == 0 or count >= len(logits):
        return logits
    threshold = np.partition(logits, -count)[-count]
    kept: Logits = np.where(logits < threshold, np.float32(-np.inf), logits)
    return kept


def keep_top_p(logits: Logits, total: float) -> Logits:
    """Return logits with all at minus infinity but the most likely, as many as it takes to reach ``total``."""
    if total >= 1:
        return logits
    order = np.argsort(-logits, kind="stable")
    probabilities = softmax(logits)[order]
    before = np.cumsum(probabilities) - probabilities
    result = np.full_like(logits, -np.inf)
    kept = order[before < total]
    result[kept] = logits[kept]
    return result


def softmax(logits: Logits) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return probabilities in float64, which sum to 1 closely enough for ``Generator.choice``."""
    powers = np.exp(logits.astype(np.float64) - np.max(logits))
    probabilities: np.ndarray[Any, np.dtype[np.float64]] = powers / powers.sum()
    return probabilities
