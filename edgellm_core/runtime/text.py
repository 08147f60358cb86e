"""Text in, text out, from a bundle alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from edgellm_core.bundle.manifest import RuntimeRecord
from edgellm_core.bundle.plugins import target_of
from edgellm_core.checkpoint.dimensions import stated_context_length
from edgellm_core.errors import InvalidSettingError
from edgellm_core.host import PluginHost
from edgellm_core.runtime.errors import PromptTooLongError
from edgellm_core.runtime.generate import Timings, answer
from edgellm_core.runtime.generation_settings import read_generation_config, stop_tokens
from edgellm_core.runtime.sampling import Sampler, SamplingSettings
from edgellm_core.runtime.tokenizer import BundleTokenizer, read_settings
from edgellm_core.targets import load_class

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from edgellm_core.bundle import Bundle
    from edgellm_core.runtime.session import DecoderSession

DEFAULT_NEW_TOKENS: Final = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationResult:
    """One answer.

    Attributes:
        text: the answer.
        tokens: its token ids, without the stop token.
        finish_reason: ``stop`` for a stop token, ``length`` where ``max_new_tokens`` or the context ended it.
        timings: how long it took.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: Literal["stop", "length"]
    timings: Timings


class TextGenerator:
    """A bundle's graph and tokenizer, loaded once for any number of prompts.

    Attributes:
        session: the graph.
        tokenizer: the tokenizer.
        context_length: tokens that the model was made for; None where its config does not say.
        runtime: what has to be done beside running the graph; see :func:`~edgellm_core.runtime.generate.answer`.
    """

    def __init__(self, bundle: Bundle, *, threads: int | None = None, plugin_paths: Sequence[Path] = ()) -> None:
        """Load the graph.

        Args:
            bundle: a loaded bundle.
            threads: threads of ONNX Runtime; None for one per core.
            plugin_paths: folders with further plugins, which may bring the bundle's target.

        Raises:
            MissingPluginError: the plugin that brought the bundle's target is not loaded.
            EdgellmError: a file can't be used (see :mod:`edgellm_core.runtime.errors`).
        """
        target = target_of(bundle, PluginHost.load(plugin_paths))
        open_session: type[DecoderSession] = load_class(target.session)
        with bundle.reading():
            self.tokenizer = BundleTokenizer(bundle.llm)
            config = read_settings(bundle.llm / "config.json")
            self.context_length = stated_context_length(config)
            self.runtime = bundle.manifest.runtime or _earlier_runtime(bundle, self.tokenizer)
            self.session = open_session(bundle.model_path, threads=threads)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return frozenset(self.runtime.stop_tokens)

    def encode_prompt(self, prompt: str, *, chat: bool = False, system: str | None = None) -> list[int]:
        """Return the token ids of a prompt.

        Args:
            prompt: text to go on from; with ``chat`` the user's message.
            chat: put it into the model's chat template.
            system: system message before it; needs ``chat``.

        Raises:
            InvalidSettingError: ``system`` without ``chat``.
            NoChatTemplateError: the model has no chat template.
            PromptTooLongError: it leaves no room for an answer.
        """
        if system is not None and not chat:
            raise InvalidSettingError("--system", "needs the chat template", repr(system), "Add --chat.")
        if chat:
            messages = [{"role": "system", "content": system}] if system is not None else []
            messages.append({"role": "user", "content": prompt})
            ids = self.tokenizer.encode(self.tokenizer.render_chat(messages), add_special_tokens=False)
        else:
            ids = self.tokenizer.encode(prompt)
        if self.context_length is not None and len(ids) >= self.context_length:
            raise PromptTooLongError(len(ids), self.context_length)
        return ids

    def generate(
        self,
        prompt: str,
        *,
        max_new_tokens: int = DEFAULT_NEW_TOKENS,
        chat: bool = False,
        system: str | None = None,
        sampling: SamplingSettings | None = None,
        on_text: Callable[[str], object] | None = None,
    ) -> GenerationResult:
        """Answer one prompt.

        Args:
            prompt: see :meth:`encode_prompt`.
            max_new_tokens: most tokens of the answer; the context may end it earlier.
            chat: see :meth:`encode_prompt`.
            system: see :meth:`encode_prompt`.
            sampling: how tokens are chosen from what the model's own settings left; greedy by default.
            on_text: receives each piece of text as soon as it is certain, never half a character.

        Raises:
            EmptyPromptError: the prompt has no tokens.
        """
        ids = self.encode_prompt(prompt, chat=chat, system=system)
        room = max_new_tokens if self.context_length is None else min(max_new_tokens, self.context_length - len(ids))
        stream, timings = self.tokenizer.stream(), Timings()
        runtime, sampling = _with_penalty(self.runtime, sampling or SamplingSettings())
        tokens: list[int] = []
        pieces: list[str] = []

        def emit(piece: str) -> None:
            if piece:
                pieces.append(piece)
                if on_text is not None:
                    on_text(piece)

        sampler = Sampler(sampling)
        for token in answer(self.session, ids, runtime, max_new_tokens=room, sampler=sampler, timings=timings):
            tokens.append(token)
            emit(stream.push(token))
        emit(stream.flush())
        reason: Literal["stop", "length"] = "stop" if len(tokens) < room else "length"
        return GenerationResult(text="".join(pieces), tokens=tuple(tokens), finish_reason=reason, timings=timings)


def generate_text(bundle: Bundle, prompt: str, **settings: Any) -> GenerationResult:
    """Load a bundle, answer one prompt, and forget it again: Python's ``edgellm run``.

    Args:
        bundle: what :func:`edgellm_core.bundle.load_bundle` returned.
        prompt: text to go on from; with ``chat=True`` the user's message.
        settings: as :meth:`TextGenerator.generate`.
    """
    return TextGenerator(bundle).generate(prompt, **settings)


def _earlier_runtime(bundle: Bundle, tokenizer: BundleTokenizer) -> RuntimeRecord:
    """Return what earlier versions did: end an answer at the stop tokens, also at the tokenizer's."""
    stops = stop_tokens(read_generation_config(bundle.llm))
    ends = () if tokenizer.eos_id is None else (tokenizer.eos_id,)
    stop_ids = tuple(dict.fromkeys((*stops, *ends)))
    return RuntimeRecord(reread_at=None, stop_tokens=stop_ids, settings={}, not_applied={})


def _with_penalty(runtime: RuntimeRecord, sampling: SamplingSettings) -> tuple[RuntimeRecord, SamplingSettings]:
    """Let a repetition penalty that was asked for stand in for the model's own."""
    if sampling.repetition_penalty is None:
        return runtime, sampling
    settings = {**runtime.settings, "repetition_penalty": sampling.repetition_penalty}
    return runtime.model_copy(update={"settings": settings}), replace(sampling, repetition_penalty=None)
