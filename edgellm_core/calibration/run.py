"""Quantizes a checkpoint layer by layer: constant memory, and a killed run goes on after the last finished layer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from edgellm_core.calibration.checkpoint_writer import CheckpointWriter
from edgellm_core.calibration.forward import LayerForward, Pace
from edgellm_core.calibration.hidden_states import HiddenStates
from edgellm_core.calibration.layer_tensors import quantize_linears, tensors_under
from edgellm_core.calibration.plan import make_plan
from edgellm_core.calibration.resume import LayerRecord, Progress, fingerprint_of
from edgellm_core.calibration.rounding import modelopt_version
from edgellm_core.calibration.stack import open_stack
from edgellm_core.calibration.statistics import Measured, StatisticsCollector

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import nn
    from transformers import PreTrainedConfig

    from edgellm_core.calibration.plan import QuantizationPlan
    from edgellm_core.calibration.request import QuantizationRequest
    from edgellm_core.calibration.stack import DecoderStack
    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.events import Reporter


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

    device = _device(request)
    stack = open_stack(checkpoint, config, dtype=_compute_type(device), device=device)
    plan = make_plan(stack, request)
    for note in plan.notes():
        report.note(note)
    versions = {"modelopt": modelopt_version(), "torch": torch.__version__}
    progress = Progress(work, fingerprint_of(fingerprint, _described(request), versions))
    with torch.no_grad():
        run = _Run(stack, plan, request, ids, work, progress)
        run.layers(report)
        run.outside(report)
    run.finish(checkpoint)
    return run.writer.folder


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
        states = HiddenStates(work / "states", (ids.shape[0], ids.shape[1], width), stack.dtype)
        self.states = states
        self.forward = LayerForward(stack, ids, states)
        self.writer = CheckpointWriter(work / "checkpoint", len(stack.layers) + 1)

    def layers(self, report: Reporter) -> None:
        """Quantize the decoder layers that are not finished."""
        finished, depth = len(self.progress.layers), len(self.stack.layers)
        if finished > depth:
            return
        if finished:
            report.note(f"Going on after layer {finished} of {depth}.")
        self.forward.prepare(fresh=not finished)
        samples = self.forward.ids.shape[0]
        passes = depth - finished + (self.plan.head is not None)
        pace = Pace(report=report, total=max(passes, 1) * samples, samples=samples, started=time.perf_counter())
        for index in range(finished, depth):
            self._layer(index, pace, (index - finished) * samples)
        if self.plan.head is not None:
            self._head(pace, (depth - finished) * samples)
        else:
            self.progress.add(LayerRecord())

    def _layer(self, index: int, pace: Pace, done: int) -> None:
        import torch

        path = self.stack.layer_path(index)
        while True:
            collector = StatisticsCollector(self._linears_under(path), self._measured)
            try:
                with self.stack.loaded(path):
                    self.forward.run(index, collector, pace, done, {})
                    inputs = collector.shared_inputs()
                    result = quantize_linears(self.stack, self.plan, path, inputs)
                break
            except torch.cuda.OutOfMemoryError:
                self.forward.shrink(path)
        self.writer.write_shard(index + 1, result.tensors)
        self.progress.add(result.record)

    def _head(self, pace: Pace, done: int) -> None:
        head = str(self.plan.head)
        collector = StatisticsCollector({}, self._measured)
        self.forward.run_head(collector, pace, done)
        result = quantize_linears(self.stack, self.plan, head, collector.shared_inputs())
        self.writer.write_shard(0, {**tensors_under(self.stack, *self._outside()), **result.tensors})
        self.progress.add(result.record)

    def outside(self, report: Reporter) -> None:
        """Write what is not in a decoder layer."""
        del report
        if not self.writer.shard(0).is_file():
            self.writer.write_shard(0, tensors_under(self.stack, *self._outside()))

    def _outside(self) -> list[str]:
        return self.stack.outside()

    def finish(self, checkpoint: Checkpoint) -> None:
        """Write the configs, and drop what only a resumed run needs."""
        linears = {name: form for layer in self.progress.layers for name, form in layer.linears.items()}
        left_out = {name for layer in self.progress.layers for name in layer.excluded}
        excluded = sorted({*map(self.plan.name, self.plan.excluded), *left_out})
        untied = self.plan.head is not None and bool(checkpoint.config.get("tie_word_embeddings"))
        self.writer.finish(checkpoint, linears, excluded, kv_cache=self.request.kv_cache, untied=untied)
        self.states.remove()

    def _linears_under(self, path: str) -> dict[str, nn.Module]:
        return {name: self.stack.model.get_submodule(name) for name in self.plan.linears if name.startswith(f"{path}.")}

    def _measured(self, path: str) -> Measured:
        smoothed = path in self.plan.smoothed
        return Measured(channels=smoothed, products=smoothed)


def _measures(plan: QuantizationPlan, path: str) -> bool:
    """Say whether the form of a layer depends on its input."""
    form = plan.linears[path]
    return form.input == "static" or form.weight == "nvfp4" or path in plan.smoothed


def _device(request: QuantizationRequest) -> torch.device:
    import torch

    name = request.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _compute_type(device: torch.device) -> torch.dtype:
    import torch

    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _described(request: QuantizationRequest) -> dict[str, Any]:
    """Return a request in JSON values."""
    named = {"scheme": request.scheme.name, "lm_head": request.lm_head.name if request.lm_head else None}
    fields = {name: value for name, value in vars(request).items() if name not in named}
    return {**fields, **named}
