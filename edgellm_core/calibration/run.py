"""Quantizes a checkpoint layer by layer: constant memory, and a killed run goes on after the last finished layer."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.calibration.checkpoint_writer import CheckpointWriter
from edgellm_core.calibration.errors import CacheNotMeasuredError, CalibrationMemoryError
from edgellm_core.calibration.forward import LayerForward, Pace
from edgellm_core.calibration.hidden_states import hold_states
from edgellm_core.calibration.kv_cache import CACHE_ARGUMENT, CacheRecorder
from edgellm_core.calibration.layer_tensors import quantize_linears, tensors_under
from edgellm_core.calibration.plan import make_plan
from edgellm_core.calibration.resume import LayerRecord, Progress, fingerprint_of
from edgellm_core.calibration.rounding import modelopt_version
from edgellm_core.calibration.smoothing import KnownFeeders, SmoothedLayer, smooth_layer
from edgellm_core.calibration.stack import open_stack
from edgellm_core.calibration.statistics import Measured, StatisticsCollector

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import torch
    from torch import nn
    from transformers import PreTrainedConfig

    from edgellm_core.calibration.plan import QuantizationPlan
    from edgellm_core.calibration.request import QuantizationRequest
    from edgellm_core.calibration.stack import DecoderStack
    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.events import Reporter

PRODUCT_TOKENS: Final = 16384
"""Tokens, and at least four for each channel, that a Gram matrix sums over: more make it no better known."""


def quantize_checkpoint(
    checkpoint: Checkpoint,
    config: PreTrainedConfig,
    request: QuantizationRequest,
    ids: torch.Tensor,
    work: Path,
    *,
    fingerprint: str,
    report: Reporter,
) -> Path:
    """Write a quantized checkpoint.

    Args:
        checkpoint: the source, in floats.
        config: its transformers config, as its family wants it.
        request: what to do.
        ids: token ids to calibrate with, int64 [samples, length], without padding.
        work: directory for what survives a crash; deleted if it belongs to another quantization.
        fingerprint: changes with everything that the result depends on besides the request and versions.
        report: told about progress.

    Returns:
        The folder of the quantized checkpoint, inside ``work``.

    Raises:
        EdgellmError: the model can't be quantized so; one class per cause in ``errors``.
    """
    import torch

    stack = open_stack(checkpoint, config, dtype=request.torch_type(), device=request.torch_device())
    plan = make_plan(stack, request)
    for note in plan.notes():
        report.note(note)
    versions = {"modelopt": modelopt_version(), "torch": torch.__version__}
    progress = Progress(work, fingerprint_of(fingerprint, _described(request), versions))
    with torch.no_grad():
        run = _Run(stack, plan, request, ids, work, progress)
        with _memory_named(run.forward):
            run.layers(report)
        run.outside()
    run.finish(checkpoint)
    for note in run.notes():
        report.note(note)
    return run.writer.folder


@contextlib.contextmanager
def _memory_named(forward: LayerForward) -> Iterator[None]:
    """Turn a lack of memory on the GPU that smaller batches don't cure into a message."""
    import torch

    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise CalibrationMemoryError(forward.stack.path, forward.batch, forward.ids.shape[1]) from error


class _Run:
    """One quantization."""

    def __init__(
        self,
        stack: DecoderStack,
        plan: QuantizationPlan,
        request: QuantizationRequest,
        ids: torch.Tensor,
        work: Path,
        progress: Progress,
    ) -> None:
        self.stack, self.plan, self.request, self.progress = stack, plan, request, progress
        if not any(_measures(plan, path) for path in plan.linears) and request.kv_cache is None:
            ids = ids[:1]  # nothing is measured; the pass only shows which layers are used
        width = int(stack.model.config.get_text_config().hidden_size)
        self.states = hold_states(work / "states", (ids.shape[0], ids.shape[1], width), stack.dtype, stack.device)
        self.forward = LayerForward(stack, ids, self.states)
        self.feeders = KnownFeeders()
        self.writer = CheckpointWriter(work / "checkpoint", len(stack.layers) + 1)

    def layers(self, report: Reporter) -> None:
        """Quantize the decoder layers that are not finished."""
        finished, depth = len(self.progress.layers), len(self.stack.layers)
        if finished > depth:
            return
        if finished:
            report.note(f"Going on after layer {finished} of {depth}.")
        fresh = not (finished and self.states.survive)
        self.forward.prepare(fresh=fresh)
        for index in range(finished if fresh else 0):
            self._pass(index)
        samples = self.forward.ids.shape[0]
        passes = depth - finished + (self.plan.head is not None)
        pace = Pace(report=report, total=max(passes, 1) * samples, samples=samples, started=time.perf_counter())
        for index in range(finished, depth):
            with self.stack.reader.kept():
                self._layer(index, pace, (index - finished) * samples)
        if self.plan.head is not None:
            self._head(pace, (depth - finished) * samples)
        else:
            self.progress.add(LayerRecord())

    def _pass(self, index: int) -> None:
        """Run the samples through a finished layer."""
        path = self.stack.layer_path(index)
        with self.stack.loaded(path):
            self.forward.run(index, StatisticsCollector({}, self._measured), None, 0, {})

    def _layer(self, index: int, pace: Pace, done: int) -> None:
        import torch

        path = self.stack.layer_path(index)
        while True:
            collector = StatisticsCollector(self._linears_under(path), self._measured)
            cache = CacheRecorder(self.stack.layers[index], path)
            try:
                with self.stack.loaded(path), self._measuring(cache) as replaced:
                    self.forward.run(index, collector, pace, done, replaced)
                break
            except torch.cuda.OutOfMemoryError:
                self.forward.shrink(path)
        inputs, smoothed = collector.shared_inputs(), SmoothedLayer()
        if self.plan.smoothed:
            smoothed = smooth_layer(
                self.forward.probe(index), self.plan, self.request.scheme.smoothing, inputs, self.feeders
            )
        result = quantize_linears(self.stack, self.plan, path, inputs, smoothed)
        scales = cache.scales()
        self.writer.write_shard(index + 1, {**result.tensors, **scales})
        self.progress.add(replace(result.record, cached=bool(scales)))

    @contextlib.contextmanager
    def _measuring(self, cache: CacheRecorder) -> Iterator[Mapping[str, Any]]:
        """Yield the arguments that make a layer store its keys and values in ``cache``, where that is asked for."""
        if self.request.kv_cache is None:
            yield {}
            return
        with cache.listening():
            yield {CACHE_ARGUMENT: cache}

    def _head(self, pace: Pace, done: int) -> None:
        head = str(self.plan.head)
        collector = StatisticsCollector({}, self._measured)
        self.forward.run_head(collector, pace, done)
        result = quantize_linears(self.stack, self.plan, head, collector.shared_inputs(), SmoothedLayer())
        self.writer.write_shard(0, {**tensors_under(self.stack, *self.stack.outside()), **result.tensors})
        self.progress.add(result.record)

    def outside(self) -> None:
        """Write what is not in a decoder layer, unless the head was quantized with it."""
        if not self.writer.shard(0).is_file():
            self.writer.write_shard(0, tensors_under(self.stack, *self.stack.outside()))

    def finish(self, checkpoint: Checkpoint) -> None:
        """Write the configs, and drop what only a resumed run needs."""
        if self.request.kv_cache is not None and not any(layer.cached for layer in self.progress.layers):
            raise CacheNotMeasuredError(self.stack.path)
        linears = {name: form for layer in self.progress.layers for name, form in layer.linears.items()}
        left_out = {name for layer in self.progress.layers for name in layer.excluded}
        excluded = sorted({*map(self.plan.name, self.plan.excluded), *left_out})
        untied = self.plan.head is not None and bool(checkpoint.config.get("tie_word_embeddings"))
        self.writer.finish(checkpoint, linears, excluded, kv_cache=self.request.kv_cache, untied=untied)
        self.states.remove()

    def notes(self) -> list[str]:
        """Return what the user should know about what happened to the layers."""
        unscaled = [name for layer in self.progress.layers for name in layer.unscaled]
        idle = [name for layer in self.progress.layers for name in layer.excluded]
        notes = []
        if unscaled:
            more = ", …" if len(unscaled) > 1 else ""
            notes.append(f"Inputs that nothing before them takes a scale for: {len(unscaled)}, {unscaled[0]}{more}.")
        if idle:
            more = ", …" if len(idle) > 1 else ""
            notes.append(f"Layers in floats, as no calibration token reaches them: {len(idle)}, {idle[0]}{more}.")
        return notes

    def _linears_under(self, path: str) -> dict[str, nn.Module]:
        from torch import nn

        named = self.stack.model.get_submodule(path).named_modules()
        return {f"{path}.{name}": module for name, module in named if isinstance(module, nn.Linear)}

    def _measured(self, path: str) -> Measured:
        smoothed = path in self.plan.smoothed
        if not smoothed and path not in self.plan.compensated:
            return Measured()
        width = int(self.stack.model.get_submodule(path).in_features)  # type: ignore[arg-type]  # a linear layer
        return Measured(channels=smoothed, products=-(-self.forward.ids.numel() // max(PRODUCT_TOKENS, 4 * width)))


def _measures(plan: QuantizationPlan, path: str) -> bool:
    """Say whether the form of a layer depends on its input."""
    form = plan.linears[path]
    return form.input == "static" or form.weight == "nvfp4" or path in plan.smoothed | plan.compensated


def _described(request: QuantizationRequest) -> dict[str, Any]:
    """Return a request in JSON values."""
    named = {"scheme": request.scheme.name, "lm_head": request.lm_head.name if request.lm_head else None}
    fields = {name: value for name, value in vars(request).items() if name not in named}
    return {**fields, **named}
