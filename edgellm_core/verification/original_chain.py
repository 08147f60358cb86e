"""Runs the original part by part: one part's weights are in memory, and all steps of all plays go through it.

Each step is one call of transformers' own forward, in a greenlet that waits where a part ends until the next part is
loaded. So nothing is taken apart: whatever a layer hands to a later one, in arguments, in attributes or in the cache,
stays where the model keeps it. All run in one thread, since each thread that computes keeps a team of OpenMP's with the
buffers of MKL: 32 MiB for each of 48 waiting forwards on 16 cores, which end with no thread.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from greenlet import greenlet
from transformers import DynamicCache

from edgellm_core.errors import EdgellmError
from edgellm_core.memory import release_memory
from edgellm_core.tracing.probe import cache_argument
from edgellm_core.verification.cache_lengths import CacheLengths
from edgellm_core.verification.errors import ReferenceRunError
from edgellm_core.verification.parts import EMBEDDING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from edgellm_core.verification.cases import Logits, StepInputs
    from edgellm_core.verification.original_weights import OriginalWeights
    from edgellm_core.verification.parts import Part

    Place = tuple[int, int]
    """Play and step."""


class OriginalChain:
    """The original's side of a comparison.

    Attributes:
        logits: float32 [batch, seq, vocab] of each step, by play and step, where nobody received them.
        hidden: float32 [batch, seq, …], what leaves a decoder layer in a step, by the step and the layer.
    """

    def __init__(  # noqa: PLR0913  # each says what is run, in what, or what is kept
        self,
        weights: OriginalWeights,
        plays: Sequence[Sequence[StepInputs]],
        parts: Sequence[Part],
        *,
        make_cache: Callable[[], DynamicCache] | None = None,
        before_step: Callable[[Place], None] | None = None,
        shown_layers: Sequence[int] = (),
        shown_plays: int | None = None,
        whole_plays: int | None = None,
        around: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> None:
        """Prepare all steps; nothing is run.

        Args:
            weights: the original.
            plays: runs from an empty cache, each with its steps in order.
            parts: parts of the model, which has a list of decoder layers if there are several.
            make_cache: makes the cache of a play; None for the model's own.
            before_step: called before a step goes through a part.
            shown_layers: layers whose result is kept; -1 for what enters the first.
            shown_plays: how many plays, the first ones, keep them; None for all.
            whole_plays: how many plays, the first ones, yield the logits of all tokens; of others the head sees the
                last token alone, where the model can do that. None for all.
            around: makes what all that goes through a part runs in.
        """
        self._weights, self._parts = weights, parts
        self._before, self._around = before_step, around
        self.logits: dict[Place, Logits] = {}
        self.hidden: dict[tuple[Place, int], Logits] = {}
        self._current: _Forward | None = None
        self._place: Place = (0, 0)
        self._shown_plays = len(plays) if shown_plays is None else shown_plays
        model = weights.model
        known = inspect.signature(model.forward).parameters
        self._forwards: list[list[_Forward]] = []
        for number, steps in enumerate(plays):
            play = _Play(model, steps=len(steps), in_parts=len(parts) > 1, make_cache=make_cache)
            given: dict[str, Any] = {"use_cache": play.uses_cache}
            if whole_plays is not None and number >= whole_plays and "logits_to_keep" in known:
                given["logits_to_keep"] = 1
            self._forwards.append(
                [_Forward(weights, play, step, given, takes_positions="position_ids" in known) for step in steps]
            )
        self._handles = [*self._show(shown_layers), *self._watch_borders()]

    def advance(self, index: int, receive: Callable[[Place, Logits], None] | None = None) -> None:
        """Take all plays through one part.

        Args:
            index: the part, one after the other.
            receive: takes the logits of each step where the part makes them; by default they are kept in ``logits``.

        Raises:
            ReferenceRunError: the original itself can't run.
            EdgellmError: the part can't be loaded.
        """
        part = self._parts[index]
        self._weights.load(part)
        try:
            with torch.inference_mode(), self._around():
                for play, forwards in enumerate(self._forwards):
                    for step, forward in enumerate(forwards):
                        self._resume(forward, (play, step), receive)
        finally:
            self._current = None
            self._weights.unload()
            release_memory()

    def _resume(self, forward: _Forward, place: Place, receive: Callable[[Place, Logits], None] | None) -> None:
        if self._before is not None:
            self._before(place)
        self._current, self._place = forward, place
        logits = forward.resume()
        if logits is not None and receive is not None:
            receive(place, logits)
        elif logits is not None:
            self.logits[place] = logits

    @property
    def waiting(self) -> int:
        """How many forwards wait for the next part."""
        return sum(forward.waits for forwards in self._forwards for forward in forwards)

    def close(self) -> None:
        """End all forwards that wait, and let go of the model's hooks."""
        for handle in self._handles:
            handle.remove()
        for forwards in self._forwards:
            for forward in forwards:
                forward.stop()

    def __enter__(self) -> OriginalChain:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _show(self, wanted: Sequence[int]) -> list[Any]:
        """Keep what leaves some layers; before a forward may wait there."""
        layers = self._weights.layers

        def keep(layer: int, value: torch.Tensor) -> None:
            if self._place[0] < self._shown_plays:
                self.hidden[self._place, layer] = value.float().numpy().copy()

        def entering(_module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            keep(EMBEDDING, named["hidden_states"] if "hidden_states" in named else arguments[0])

        def leaving(layer: int) -> Any:
            return lambda _module, _arguments, output: keep(layer, output[0] if isinstance(output, tuple) else output)

        if not len(layers):
            return []
        handles = [layers[layer].register_forward_hook(leaving(layer)) for layer in wanted if layer >= 0]
        if EMBEDDING in wanted:
            handles.append(layers[0].register_forward_pre_hook(entering, with_kwargs=True))
        return handles

    def _watch_borders(self) -> list[Any]:
        """Let a forward wait where a part begins."""
        layers, handles = self._weights.layers, []

        def wait(*_: Any) -> None:
            if self._current is not None:
                self._current.wait()

        def enter(*_: Any) -> None:
            if self._current is not None:
                self._current.enter_layers()

        if len(self._parts) > 1:  # before the hook that may wait there
            handles.append(layers[0].register_forward_pre_hook(enter))
        for part in self._parts[1:]:
            if part.start < len(layers):
                handles.append(layers[part.start].register_forward_pre_hook(wait))
            else:
                handles.append(layers[-1].register_forward_hook(wait))
        return handles


class _Play:
    """What the steps of a play share: the cache.

    Attributes:
        cache_name: argument of the model that takes it.
        cache: the cache; None where the model makes its own, or where one step needs none.
        uses_cache: whether there is a later step that needs it.
    """

    def __init__(
        self, model: Any, *, steps: int, in_parts: bool, make_cache: Callable[[], DynamicCache] | None
    ) -> None:
        self.cache_name = cache_argument(model)
        self.uses_cache = steps > 1 or make_cache is not None
        self.cache: Any = None
        self._lengths: CacheLengths | None = None
        self._own_layers: Any = None
        if self.uses_cache and make_cache is not None:
            self.cache = make_cache()
        elif self.uses_cache and in_parts:
            self.cache = DynamicCache(config=model.config)
        if self.cache is not None and in_parts:
            self._lengths = CacheLengths(model.config)

    def begin(self) -> None:
        """Let the cache have the lengths that it has once all layers took the steps before."""
        if self._lengths is not None:
            self._own_layers, self.cache.layers = self.cache.layers, self._lengths.layers

    def enter_layers(self, batch: int, tokens: int) -> None:
        """Give the cache its own layers back, and count the tokens of the step that has reached the first one."""
        if self._lengths is not None and self._own_layers is not None:
            self.cache.layers, self._own_layers = self._own_layers, None
            self._lengths.add(batch, tokens)


class _Forward:
    """One call of the model, which can wait."""

    def __init__(
        self,
        weights: OriginalWeights,
        play: _Play,
        inputs: StepInputs,
        given: Mapping[str, Any],
        *,
        takes_positions: bool,
    ) -> None:
        self._model, self._play, self._inputs, self._given = weights.model, play, inputs, given
        self._directory = weights.directory
        self._takes_positions = takes_positions
        self._greenlet = greenlet(self._run)

    @property
    def waits(self) -> bool:
        """Whether it has begun and not ended."""
        return bool(self._greenlet)

    def resume(self) -> Logits | None:
        """Run until the next border; return float32 logits [batch, seq, vocab] where the forward ended."""
        found: Logits | None = self._greenlet.switch()
        return found

    def wait(self) -> None:
        """Hand over to whoever resumed this forward."""
        assert self._greenlet.parent is not None  # for mypy: only the main greenlet has none
        self._greenlet.parent.switch(None)

    def enter_layers(self) -> None:
        """Note that the forward has reached the first decoder layer."""
        batch, tokens = self._inputs.input_ids.shape
        self._play.enter_layers(batch, tokens)

    def stop(self) -> None:
        """End the forward where it waits."""
        if self.waits:
            self._greenlet.throw()

    def _run(self) -> Logits:
        try:
            return self._forward()
        except EdgellmError:
            raise
        except Exception as error:
            raise ReferenceRunError(self._directory, error) from error

    def _forward(self) -> Logits:
        inputs, play = self._inputs, self._play
        tokens = inputs.input_ids.shape[1]
        mask = inputs.attention_mask if play.cache_name == "past_key_values" else inputs.attention_mask[:, -tokens:]
        arrays = {"input_ids": inputs.input_ids, "attention_mask": mask}
        arrays |= {"position_ids": inputs.position_ids} if self._takes_positions else {}
        given = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}
        play.begin()
        output = self._model(**given, **{play.cache_name: play.cache}, **self._given)
        if play.uses_cache:
            play.cache = getattr(output, play.cache_name)
        logits: Logits = output.logits.float().numpy()
        return logits
