"""Whether ``edgellm run`` answers as transformers' ``generate`` does: prompt by prompt, token by token.

The product's own runtime (:func:`edgellm_core.runtime.generate.answer`) runs with a sampler that follows the tokens
that ``generate`` chose, so that one tie does not end the comparison, and that holds the logits which the settings of
the checkpoint left to those of ``generate``. Whatever a runtime has to do beside running the graph is compared so: the
cache that is dropped at a switch, positions, settings that change the logits, and the tokens that end an answer.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.errors import one_line
from edgellm_core.runtime.generate import answer
from edgellm_core.runtime.generation_settings import NOT_APPLIED
from edgellm_core.verification.errors import GenerationDiffersError, OriginalGenerationError, ReferenceLoadError
from edgellm_core.verification.rounding_noise import DRAWS, FACTOR, LARGEST, rounded_otherwise

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from transformers import GenerationConfig, PreTrainedModel

    from edgellm_core.bundle import RuntimeRecord
    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.contract import ModelFamily
    from edgellm_core.runtime.generate import StepSession
    from edgellm_core.runtime.logits_processors import Logits

NEW_TOKENS: Final = 48
"""Tokens of an answer that is compared."""

WITHOUT_EFFECT: Final = ("max_length", "renormalize_logits", "max_cache_len")
"""Settings that change lengths and numbers but not which token has the largest logit."""


@dataclass(frozen=True, kw_only=True)
class OriginalAnswer:
    """What transformers' ``generate`` answered.

    Attributes:
        tokens: the answer, without the token that ended it.
        chosen: the answer, with that token.
        scores: float32 [chosen, vocab]: the logits that each token was chosen from, after all settings.
    """

    tokens: tuple[int, ...]
    chosen: tuple[int, ...]
    scores: Logits


@dataclass(frozen=True, kw_only=True)
class GenerationComparison:
    """Answers that were found equal.

    Attributes:
        prompts: number of prompts.
        tokens: tokens that were compared.
        max_rel_err: largest error of the logits that they were chosen from.
        ties: tokens that fell otherwise between logits that are equal within the tolerance.
    """

    prompts: int
    tokens: int
    max_rel_err: float
    ties: int


def compare_generation(
    session: StepSession,
    model: PreTrainedModel,
    runtime: RuntimeRecord,
    prompts: Sequence[Sequence[int]],
    *,
    folder: Path,
    tolerance: float,
    max_new_tokens: int = NEW_TOKENS,
) -> GenerationComparison:
    """Compare the greedy answers of a graph with those of the original.

    Args:
        session: the graph in what ``edgellm run`` runs it with.
        model: the original.
        runtime: what the bundle tells a runtime to do.
        prompts: token ids.
        folder: the checkpoint whose settings of generation hold.
        tolerance: largest error of the logits, relative to the largest of the original's; where the original itself
            moves by more when it rounds otherwise, that counts.
        max_new_tokens: most tokens of an answer.

    Raises:
        GenerationDiffersError: an answer differs, naming prompt and token.
        OriginalGenerationError: ``generate`` refuses the settings of the checkpoint.
        EdgellmError: the graph can't be run.
    """
    followed = []
    for prompt in prompts:
        wanted = original_answer(model, folder, prompt, max_new_tokens=max_new_tokens)
        follow = functools.partial(_follow, session, prompt, runtime, wanted, max_new_tokens=max_new_tokens)
        try:
            follower = follow(tolerance)
        except GenerationDiffersError as differs:
            if not tolerance < differs.error <= LARGEST:
                raise
            follower = follow(max(tolerance, _rounding(model, folder, prompt, wanted)))
        followed.append(follower)
    return GenerationComparison(
        prompts=len(prompts),
        tokens=sum(len(one.wanted.chosen) for one in followed),
        max_rel_err=max((one.max_rel_err for one in followed), default=0.0),
        ties=sum(one.ties for one in followed),
    )


def _follow(
    session: StepSession,
    prompt: Sequence[int],
    runtime: RuntimeRecord,
    wanted: OriginalAnswer,
    tolerance: float,
    *,
    max_new_tokens: int,
) -> _Follower:
    """Answer a prompt with the graph, along the answer of the original."""
    follower = _Follower(tuple(prompt), wanted, tolerance)
    found = tuple(answer(session, prompt, runtime, max_new_tokens=max_new_tokens, sampler=follower))
    if found != wanted.tokens:
        reason = f"edgellm run {_end(found, wanted)}"
        raise GenerationDiffersError(len(prompt), len(found), reason, follower.max_rel_err, tolerance)
    return follower


def _rounding(model: PreTrainedModel, folder: Path, prompt: Sequence[int], wanted: OriginalAnswer) -> float:
    """Return how far rounding alone may move the logits of an answer, by what it does to the original."""
    errors = [0.0]
    for seed in range(DRAWS):
        with rounded_otherwise(model, seed):
            other = original_answer(model, folder, prompt, max_new_tokens=len(wanted.chosen))
        for step, (token, chosen) in enumerate(zip(other.chosen, wanted.chosen, strict=False)):
            errors.append(_error(wanted.scores[step], other.scores[step]))
            if token != chosen:  # from here on it reads another text
                break
    return min(LARGEST, FACTOR * max(errors))


def original_answer(
    model: PreTrainedModel, folder: Path, prompt: Sequence[int], *, max_new_tokens: int
) -> OriginalAnswer:
    """Return what transformers' ``generate`` answers without sampling, with the checkpoint's own settings.

    Args:
        model: the original.
        folder: its checkpoint.
        prompt: token ids.
        max_new_tokens: most tokens of the answer.

    Raises:
        OriginalGenerationError: ``generate`` refuses the settings of the checkpoint.
    """
    import inspect

    import torch

    from edgellm_core.tracing.generation_probe import find_reread
    from edgellm_core.tracing.weightless import restored_modules

    config = _generation_config(folder)
    reread = find_reread(model)
    config.update(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        use_cache=not (reread and reread.loses_context),
        output_scores=True,
        return_dict_in_generate=True,
    )
    ids = torch.tensor([list(prompt)])
    takes_mask = "attention_mask" in inspect.signature(model.forward).parameters
    arguments = {"attention_mask": torch.ones_like(ids)} if takes_mask else {}
    generate: Any = model.generate
    with _settings_of(model, config), restored_modules(model), torch.inference_mode():
        try:
            output = generate(ids, **arguments)
        except (ValueError, TypeError, RuntimeError, IndexError) as error:
            raise OriginalGenerationError(folder, one_line(error)) from error
    chosen, stops = tuple(output.sequences[0, len(prompt) :].tolist()), _stops_of(config)
    return OriginalAnswer(
        tokens=chosen[:-1] if chosen[-1] in stops else chosen,
        chosen=chosen,
        scores=torch.cat(output.scores).float().numpy(),
    )


def original_stop_tokens(folder: Path) -> list[int]:
    """Return the tokens that end an answer of the checkpoint, as transformers reads them.

    Raises:
        OriginalGenerationError: transformers refuses the settings.
    """
    return [token for token in _stops_of(_generation_config(folder)) if token is not None and token >= 0]


def _stops_of(config: GenerationConfig) -> list[Any]:
    return config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]


def load_for_generation(checkpoint: Checkpoint, family: ModelFamily) -> PreTrainedModel:
    """Return an unquantized original in float32, loaded by transformers as users do.

    Raises:
        ReferenceLoadError: transformers can't load it.
    """
    import torch
    from transformers.utils import logging

    from edgellm_core.tracing.configuration import load_config
    from edgellm_core.tracing.modeling_code import quiet_libraries
    from edgellm_core.tracing.weightless import causal_lm_class

    directory, trusted = checkpoint.directory, checkpoint.trust_remote_code
    config = load_config(directory, checkpoint.config, family, trust_remote_code=trusted)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with quiet_libraries():
            model: PreTrainedModel = causal_lm_class(config).from_pretrained(
                directory, config=config, dtype=torch.float32, local_files_only=True, use_safetensors=True
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ReferenceLoadError(directory, one_line(error)) from error
    finally:
        if bars:
            logging.enable_progress_bar()
    model.eval()
    return model


class _Follower:
    """A sampler that follows an answer of the original and compares the logits before each of its tokens."""

    def __init__(self, prompt: tuple[int, ...], wanted: OriginalAnswer, tolerance: float) -> None:
        self.wanted, self.max_rel_err, self.ties = wanted, 0.0, 0
        self._prompt, self._tolerance = prompt, tolerance

    def __call__(self, scores: Logits, history: Sequence[int]) -> int:
        step = len(history) - len(self._prompt)
        if step >= len(self.wanted.chosen):
            reason = f"edgellm run {_end(history[len(self._prompt) :], self.wanted)}"
            raise GenerationDiffersError(len(self._prompt), step, reason, self.max_rel_err, self._tolerance)
        wanted, token = self.wanted.scores[step], self.wanted.chosen[step]
        error = _error(wanted, scores)
        self.max_rel_err = max(self.max_rel_err, error)
        if error > self._tolerance:
            reason = f"generate chose token {token}, edgellm run {int(np.argmax(scores))}"
            raise GenerationDiffersError(len(self._prompt), step, reason, error, self._tolerance)
        self.ties += int(np.argmax(scores)) != token
        return token


def _error(wanted: Logits, found: Logits) -> float:
    """Return ``max |a - b| / max |b|`` of the finite logits; infinity where others are possible or finite."""
    possible = np.isfinite(wanted)
    if found.shape != wanted.shape or not np.array_equal(possible, np.isfinite(found)):
        return float("inf")
    scale = float(np.abs(wanted[possible]).max(initial=0.0)) or 1.0
    return float(np.abs(found[possible] - wanted[possible]).max(initial=0.0)) / scale


def _end(found: Sequence[int], wanted: OriginalAnswer) -> str:
    if len(found) < len(wanted.tokens):
        return f"ends the answer at token {wanted.chosen[len(found)]}, at which generate goes on"
    return f"goes on after token {wanted.chosen[-1]}, at which generate ends the answer"


def _generation_config(folder: Path) -> GenerationConfig:
    """Return the settings as ``from_pretrained`` of transformers reads them, but for those that nobody applies."""
    from transformers import GenerationConfig

    own = folder / "generation_config.json"
    try:
        config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    except OSError:  # as transformers itself does without the file
        named: dict[str, Any] = {"config_file_name": "config.json", "_from_model_config": True}
        config = GenerationConfig.from_pretrained(folder, local_files_only=True, **named)
    except ValueError as error:
        raise OriginalGenerationError(own, one_line(error)) from error
    for name in (*NOT_APPLIED, *WITHOUT_EFFECT):
        setattr(config, name, None)
    return config


@contextlib.contextmanager
def _settings_of(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Let a model generate with a configuration, quietly, in the body."""
    from edgellm_core.tracing.modeling_code import quiet_libraries

    own = model.generation_config
    model.generation_config = copy.deepcopy(config)
    try:
        with quiet_libraries(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        model.generation_config = own
