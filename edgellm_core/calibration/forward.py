"""Runs all samples through one decoder layer at a time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.calibration.errors import CalibrationMemoryError
from edgellm_core.calibration.layer_calls import first_hidden_states, head_inputs, record_calls
from edgellm_core.calibration.probing import PROBE_TOKENS, LayerProbe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    import torch

    from edgellm_core.calibration.hidden_states import HiddenStates
    from edgellm_core.calibration.layer_calls import LayerCalls
    from edgellm_core.calibration.stack import DecoderStack
    from edgellm_core.calibration.statistics import StatisticsCollector
    from edgellm_core.events import Reporter

TOKENS_AT_A_TIME: Final = {"cpu": 2048, "cuda": 32768}
"""Tokens in a batch: enough to keep the matrix products efficient, few enough to stay in caches and memory."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Tells how fast samples pass.

    Attributes:
        report: told about it.
        total: samples times passes that are to be run in this process.
        samples: samples of one pass.
        started: when the first pass began, in seconds.
    """

    report: Reporter
    total: int
    samples: int
    started: float

    def tell(self, what: str, done: int) -> None:
        """Report that ``done`` of ``total`` are through."""
        elapsed = max(time.perf_counter() - self.started, 1e-9)
        passes = self.total / self.samples
        rate, left = done / passes / elapsed, (self.total - done) * elapsed / max(done, 1)
        self.report.progress(done, self.total, f"{what}, {rate:.1f} samples/s, {left:.0f} s left")


class LayerForward:
    """Runs the samples of a calibration through the layers of a model.

    Attributes:
        stack: the model.
        ids: token ids [samples, length].
        states: hidden states between layers.
        batch: samples at a time.
    """

    def __init__(self, stack: DecoderStack, ids: torch.Tensor, states: HiddenStates) -> None:
        self.stack = stack
        self.ids = ids
        self.states = states
        tokens = TOKENS_AT_A_TIME[stack.device.type]
        self.batch = min(max(1, tokens // ids.shape[1]), ids.shape[0])
        self._calls: dict[int, LayerCalls] = {}
        self._probe_calls: LayerCalls | None = None

    def prepare(self, *, fresh: bool) -> None:
        """Learn how the model calls its layers; ``fresh`` also computes what enters the first.

        Raises:
            NotLayerwiseError: the layers can't run one after the other.
        """
        with self._outside_loaded(self.stack.layer_path(0)):
            for size in {len(rows) for rows in self._rows()}:
                self._calls[size] = record_calls(self.stack, self._ids(range(size)))
            self._probe_calls = record_calls(self.stack, self.ids[:1, :PROBE_TOKENS].to(self.stack.device))
            if fresh:
                for rows in self._rows():
                    self.states.entering(0)[rows.start : rows.stop] = first_hidden_states(self.stack, self._ids(rows))

    def run(
        self, index: int, collector: StatisticsCollector, pace: Pace | None, done: int, replaced: Mapping[str, Any]
    ) -> None:
        """Run all samples through a layer, whose parameters must be loaded, while ``collector`` measures.

        Args:
            index: the layer.
            collector: hooks the layer's modules.
            pace: is told about every batch, if there is one.
            done: samples that passed before.
            replaced: named arguments of the layer that are passed instead of the model's own.
        """
        layer = self.stack.layers[index]
        source, target = self.states.entering(index), self.states.entering(index + 1)
        with collector.listening():
            for rows in self._rows():
                hidden = source[rows.start : rows.stop].to(self.stack.device)
                call = self._calls[len(rows)].calls[index]
                target[rows.start : rows.stop] = call.run(layer, hidden, **replaced)
                collector.end_batch()
                if pace is not None:
                    pace.tell(f"layer {index + 1} of {len(self.stack.layers)}", done + rows.stop)

    def probe(self, index: int) -> LayerProbe:
        """Return a layer in float32 on the first tokens of the first sample."""
        assert self._probe_calls is not None  # for mypy: prepare() came first
        hidden = self.states.entering(index)[:1, :PROBE_TOKENS]
        return LayerProbe(self.stack, index, self._probe_calls.calls[index], hidden)

    def shrink(self, module: str) -> None:
        """Run half as many samples at a time, after the GPU's memory was too small for ``module``.

        Raises:
            CalibrationMemoryError: it was too small for one.
        """
        if self.batch == 1:
            raise CalibrationMemoryError(module, self.batch, self.ids.shape[1])
        self.batch //= 2
        self.prepare(fresh=False)

    def run_head(self, collector: StatisticsCollector, pace: Pace, done: int) -> None:
        """Measure what enters the head."""
        leaving = self.states.entering(len(self.stack.layers))
        with self._outside_loaded():
            for rows in self._rows():
                hidden = leaving[rows.start : rows.stop].to(self.stack.device)
                calls = self._calls[len(rows)]
                entering = head_inputs(self.stack, self._ids(rows), hidden, in_tuple=calls.in_tuple)
                collector.add(self.head_path, entering)
                pace.tell("head", done + rows.stop)

    @property
    def head_path(self) -> str:
        """Path of the head."""
        head: object = self.stack.model.get_output_embeddings()
        return next((path for path, module in self.stack.model.named_modules() if module is head), "")

    def _outside_loaded(self, *more: str) -> AbstractContextManager[None]:
        own = f"{self.head_path}."  # "." where there is no head: no name starts with it
        return self.stack.loaded(*(name for name in self.stack.outside() if not name.startswith(own)), *more)

    def _ids(self, rows: range) -> torch.Tensor:
        return self.ids[rows.start : rows.stop].to(self.stack.device)

    def _rows(self) -> Iterator[range]:
        samples = self.ids.shape[0]
        for start in range(0, samples, self.batch):
            yield range(start, min(start + self.batch, samples))
