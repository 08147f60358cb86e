"""The answers of bundles, and of the original, to the same prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgellm_core.events import peak_rss_mib, reset_peak_rss
from edgellm_core.memory import release_memory
from edgellm_core.runtime.errors import NoChatTemplateError
from edgellm_core.runtime.text import TextGenerator
from edgellm_core.verification.generation import original_answer
from edgellm_core.verification.reference import suitable_threads

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

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
    folder: Path,
    max_new_tokens: int,
) -> tuple[str, ...]:
    """Answer prompts greedily with the original, by transformers' ``generate``.

    Args:
        model: the original, in memory.
        tokenizer: that of its bundles.
        prompts: texts, put into the chat template where there is one.
        folder: the original checkpoint, whose settings of generation hold.
        max_new_tokens: most tokens of an answer.
    """
    chat = has_chat_template(tokenizer)
    texts = []
    with suitable_threads(model):
        for prompt in prompts:
            rendered = tokenizer.render_chat([{"role": "user", "content": prompt}]) if chat else prompt
            ids = tokenizer.encode(rendered, add_special_tokens=not chat)
            texts.append(tokenizer.decode(original_answer(model, folder, ids, max_new_tokens=max_new_tokens).tokens))
    return tuple(texts)
