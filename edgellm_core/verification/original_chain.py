"""Runs the original part by part: one part's weights are in memory, and all steps of all plays go through it.

Each step is one call of transformers' own forward, in a thread of its own that waits where a part ends until the next
part is loaded. So nothing is taken apart: whatever a layer hands to a later one, in arguments, in attributes or in the
cache, stays where the model keeps it. Only one thread runs at a time.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from transformers import DynamicCache

from edgellm_core.errors import EdgellmError
from edgellm_core.memory import release_memory
from edgellm_core.tracing.probe import cache_argument
from edgellm_core.verification.cache_lengths import CacheLengths
from edgellm_core.verification.errors import ReferenceRunError
from edgellm_core.verification.parts import EMBEDDING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from edgellm_core.verification.cases import Logits, StepInputs
    from edgellm_core.verification.original_weights import OriginalWeights
    from edgellm_core.verification.parts import Part

    Place = tuple[int, int]
    """Play and step."""

THREAD: Final = "original"
"""Name of the threads."""


class StoppedError(BaseException):
    """Ends a forward that is not wanted any more; never leaves this module."""


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
            around: makes what each forward runs in, in its thread.
        """
        self._weights, self._parts = weights, parts
        self._before = before_step
        self.logits: dict[Place, Logits] = {}
        self.hidden: dict[tuple[Place, int], Logits] = {}
        self._current: _Forward | None = None
        self._place: Place = (0, 0)
        self._shown_plays = len(plays) if shown_plays is None else shown_plays
        model = weights.model
        takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self._forwards: list[list[_Forward]] = []
        for steps in plays:
            play = _Play(model, steps=len(steps), in_parts=len(parts) > 1, make_cache=make_cache)
            self._forwards.append(
                [_Forward(weights, play, step, around, takes_positions=takes_positions) for step in steps]
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
            for play, forwards in enumerate(self._forwards):
                for step, forward in enumerate(forwards):
                    if self._before is not None:
                        self._before((play, step))
                    self._current, self._place = forward, (play, step)
                    logits = forward.resume()
                    if logits is not None and receive is not None:
                        receive((play, step), logits)
                    elif logits is not None:
                        self.logits[play, step] = logits
        finally:
            self._current = None
            self._weights.unload()
            release_memory()

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
        around: Callable[[], AbstractContextManager[Any]],
        *,
        takes_positions: bool,
    ) -> None:
        self._model, self._play, self._inputs, self._around = weights.model, play, inputs, around
        self._directory = weights.directory
        self._takes_positions = takes_positions
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._logits: Logits | None = None
        self._error: BaseException | None = None
        self._stopped = False

    def resume(self) -> Logits | None:
        """Run until the next border; return float32 logits [batch, seq, vocab] where the forward ended."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
            self._thread.start()
        else:
            self._go.release()
        self._back.acquire()
        if self._error is not None:
            raise self._error
        logits, self._logits = self._logits, None
        return logits

    def wait(self) -> None:
        """Hand over to whoever resumed this forward."""
        self._back.release()
        self._go.acquire()
        if self._stopped:
            raise StoppedError

    def enter_layers(self) -> None:
        """Note that the forward has reached the first decoder layer."""
        batch, tokens = self._inputs.input_ids.shape
        self._play.enter_layers(batch, tokens)

    def stop(self) -> None:
        """End the forward where it waits."""
        if self._thread is not None and self._thread.is_alive():
            self._stopped = True
            self._go.release()
            self._thread.join()

    def _run(self) -> None:
        try:
            with torch.inference_mode(), self._around():
                self._logits = self._forward()
        except (EdgellmError, StoppedError) as error:
            self._error = error
        except Exception as error:  # noqa: BLE001  # a model can raise any class
            self._error = ReferenceRunError(self._directory, error)
            self._error.__cause__ = error
        finally:
            self._back.release()

    def _forward(self) -> Logits:
        inputs, play = self._inputs, self._play
        tokens = inputs.input_ids.shape[1]
        mask = inputs.attention_mask if play.cache_name == "past_key_values" else inputs.attention_mask[:, -tokens:]
        arrays = {"input_ids": inputs.input_ids, "attention_mask": mask}
        arrays |= {"position_ids": inputs.position_ids} if self._takes_positions else {}
        given = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}
        play.begin()
        output = self._model(**given, **{play.cache_name: play.cache}, use_cache=play.uses_cache)
        if play.uses_cache:
            play.cache = getattr(output, play.cache_name)
        logits: Logits = output.logits.float().numpy()
        return logits
