"""The answers of bundles, and of the original, to the same prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgellm_core.events import peak_rss_mib, reset_peak_rss
from edgellm_core.memory import release_memory
from edgellm_core.runtime.errors import NoChatTemplateError
from edgellm_core.runtime.text import TextGenerator
from edgellm_core.verification.cases import Case, decode_inputs, prefill_inputs
from edgellm_core.verification.reference import ReferenceRunner, suitable_threads

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from transformers import PreTrainedModel

    from edgellm_core.bundle import Bundle
    from edgellm_core.runtime.tokenizer import BundleTokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What one bundle answered.

    Attributes:
        texts: one for each prompt.
        tokens_per_second: mean speed; 0 where no answer had two tokens.
        run_mib: what loading and answering added to the resident set, in MiB.
    """

    texts: tuple[str, ...]
    tokens_per_second: float
    run_mib: float


def has_chat_template(tokenizer: BundleTokenizer) -> bool:
    """Return whether prompts are put into a chat template."""
    try:
        tokenizer.render_chat([{"role": "user", "content": "Hello"}])
    except NoChatTemplateError:
        return False
    return True


def answer(bundle: Bundle, prompts: Sequence[str], *, max_new_tokens: int) -> Answers:
    """Answer prompts greedily with a bundle.

    Raises:
        EdgellmError: the bundle can't be run.
    """
    release_memory()
    reset_peak_rss()
    before = peak_rss_mib()
    generator = TextGenerator(bundle)
    chat = has_chat_template(generator.tokenizer)
    results = [generator.generate(prompt, max_new_tokens=max_new_tokens, chat=chat) for prompt in prompts]
    steps = sum(result.timings.decode_steps for result in results)
    seconds = sum(result.timings.decode_seconds for result in results)
    return Answers(
        texts=tuple(result.text for result in results),
        tokens_per_second=steps / seconds if steps else 0.0,
        run_mib=peak_rss_mib() - before,
    )


def answer_with_original(
    model: PreTrainedModel,
    tokenizer: BundleTokenizer,
    prompts: Sequence[str],
    *,
    stop_ids: Collection[int],
    max_new_tokens: int,
) -> tuple[str, ...]:
    """Answer prompts greedily with the original.

    Args:
        model: the original, in memory.
        tokenizer: that of its bundles.
        prompts: texts, put into the chat template where there is one.
        stop_ids: tokens that end an answer.
        max_new_tokens: most tokens of an answer.
    """
    chat = has_chat_template(tokenizer)
    texts = []
    with suitable_threads(model):
        for prompt in prompts:
            rendered = tokenizer.render_chat([{"role": "user", "content": prompt}]) if chat else prompt
            ids = tokenizer.encode(rendered, add_special_tokens=not chat)
            texts.append(tokenizer.decode(_greedy(model, ids, stop_ids, max_new_tokens)))
    return tuple(texts)


def _greedy(model: PreTrainedModel, ids: Sequence[int], stop_ids: Collection[int], most: int) -> list[int]:
    runner = ReferenceRunner(model)
    case = Case(name="answer", prompts=(0,), rows=(tuple(ids),), chunks=(len(ids),))
    inputs = next(iter(prefill_inputs(case)))
    tokens: list[int] = []
    while len(tokens) < most:
        token = int(runner.run(inputs)[0, -1].argmax())
        if token in stop_ids:
            break
        tokens.append(token)
        inputs = decode_inputs(case, inputs, [token], len(tokens))
    return tokens
