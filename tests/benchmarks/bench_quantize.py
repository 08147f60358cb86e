"""Quality, size, speed and memory of quantization beside stock ModelOpt.

    python tests/benchmarks/bench_quantize.py [--only speed quality inputs] [--scratch DIR] [--write]

SmolLM2-135M-Instruct, 64 × 512 tokens of the builtin text for both; ModelOpt runs as its example script does
(stock_quantize.py). Every checkpoint is exported by edgellm and scored by one evaluator on held-out text. ``speed``
needs a machine that does nothing else. ``inputs`` rounds inputs alone, in the original: what no
rounding of weights can win back. ``--write`` puts the tables into docs/explanation/quantization-quality.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from measuring import Run, measure, median_run, table

from edgellm_core.calibration.data import CalibrationDataSettings, calibration_set, held_out_set
from edgellm_core.checkpoint.source import open_checkpoint
from edgellm_core.events import Reporter
from edgellm_core.host import PluginHost
from edgellm_core.memory import release_memory
from edgellm_core.quantization.layout import read_layout
from edgellm_core.registry import ModelRegistry
from edgellm_core.report.linear_weights import linear_weights
from edgellm_core.runtime.tokenizer import BundleTokenizer
from edgellm_core.verification.input_rounding import input_transform
from edgellm_core.verification.memory import free_weights
from edgellm_core.verification.quality import TextProving, TextScore, prove_on_text, score_graph, score_text
from edgellm_core.verification.quantized_weights import StoredTensors
from edgellm_core.verification.reference import ReferenceRunner, load_reference
from edgellm_core.verification.text_recording import record_text, text_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from transformers import PreTrainedModel

    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.contract import ModelFamily
    from edgellm_core.verification.text_recording import TextRecording

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "explanation" / "quantization-quality.md"
STOCK = Path(__file__).with_name("stock_quantize.py")
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
EDGELLM = Path(sys.executable).with_name("edgellm")
MODEL = "smollm2-135m-instruct"
SAMPLES, LENGTH, HELD_OUT = 64, 512, 39
SCHEMES = ("fp8", "int8_sq", "mxfp8", "int4_awq", "nvfp4")
TIMED = {"fp8": 3, "int4_awq": 1}
"""Scheme → rounds; stock ModelOpt takes a quarter of an hour for one of int4_awq."""

GROUP = 64
"""The width of SmolLM2, 576, is a multiple of 64 and not of 128."""

SECTIONS = ["speed", "quality", "inputs"]
INPUTS_ALONE = ("fp8", "mxfp8", "nvfp4")
"""Schemes that round inputs and fold no scale into weights, so that the original can round them too."""

VARIANTS = {"fp8": [("--rounding", "compensated")], "int4_awq": [("--group-size", "32")]}
"""Scheme → options with which it is scored as well."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a quantized checkpoint costs.

    Attributes:
        share: bytes of the decoder's linear weights and their scales, as a share of float16.
        perplexity: on held-out text.
        kl: KL(original ‖ graph) in nats.
        top1: share of positions with the original's most likely token.
    """

    share: float
    perplexity: float
    kl: float
    top1: float


class Bench:
    """Makes checkpoints and measures them."""

    def __init__(self, scratch: Path) -> None:
        """Convert the model, and write the token ids that both calibrate on."""
        self.scratch = scratch
        self.environ = {"EDGELLM_CACHE": str(scratch / "cache")}
        os.environ |= self.environ
        self.original: Checkpoint = open_checkpoint(MODEL, registry=ModelRegistry.load(), report=Reporter("open"))
        self.family: ModelFamily = PluginHost.load().select(self.original.config).family
        self.tokenizer = BundleTokenizer(self.original.directory)
        data = calibration_set(
            CalibrationDataSettings(data="builtin", samples=SAMPLES, length=LENGTH), self.tokenizer, packs={}
        )
        self.text = data.source
        np.save(scratch / "ids.npy", data.ids)

    def ours(self, scheme: str, *options: str) -> Run:
        """Write our checkpoint; return what it took."""
        out = self.our_folder(scheme, *options)
        command = [EDGELLM, "quantize", self.original.directory, "-o", out, "--precision", scheme, "--force"]
        text = ["--calib-data", "builtin", "--calib-samples", str(SAMPLES), "--calib-length", str(LENGTH)]
        return measure([*command, *text, "--no-cache", *options], self.environ)

    def our_folder(self, scheme: str, *options: str) -> Path:
        """Return where our checkpoint is."""
        return self.scratch / f"ours-{'-'.join((scheme, *options)).replace('-', '')}"

    def stock(self, scheme: str) -> Run:
        """Write ModelOpt's checkpoint; return what it took."""
        out = self.stock_folder(scheme)
        group = ["--group-size", str(GROUP)] if scheme == "int4_awq" else []
        command = [sys.executable, STOCK, self.original.directory, self.scratch / "ids.npy", out, "--scheme", scheme]
        return measure([*command, *group], self.environ)

    def stock_folder(self, scheme: str) -> Path:
        """Return where ModelOpt's checkpoint is."""
        return self.scratch / f"stock-{scheme}"

    def speed(self) -> list[str]:
        """Return the table of wall time and memory; the commands take turns."""
        rows = []
        for scheme, rounds in TIMED.items():
            taken = [(self.ours(scheme), self.stock(scheme)) for _ in range(rounds)]
            ours, stock = (median_run([pair[side] for pair in taken]) for side in (0, 1))
            rows.append(
                [scheme, f"{ours.seconds:.1f}", f"{stock.seconds:.1f}", f"{ours.seconds / stock.seconds:.2f}",
                 f"{ours.peak_mb:.0f}", f"{stock.peak_mb:.0f}"]
            )  # fmt: skip
        header = ["scheme", "edgellm, s", "ModelOpt, s", "ratio", "edgellm, peak MB", "ModelOpt, peak MB"]
        return table(header, rows)

    @contextlib.contextmanager
    def _recorded(self) -> Iterator[tuple[PreTrainedModel, TextRecording]]:
        """Hold the original in the body, and what it says about the held-out text."""
        held_out = held_out_set(self.tokenizer, samples=HELD_OUT, length=LENGTH)
        proving = self._proving(self._exported(self.original.directory, "fp16"))
        recording = record_text(
            proving.original, proving.parts, held_out.ids, self.scratch / "original.f16",
            directory=self.original.directory, report=Reporter("original"),
        )  # fmt: skip
        model = load_reference(proving.subject)
        yield model, recording
        free_weights(model)

    def _proving(self, path: Path) -> TextProving:
        return prove_on_text(path, self.original, self.family, report=Reporter("graph"))

    def quality(self) -> list[str]:
        """Return the table of size and quality."""
        with self._recorded() as (_model, recording):
            pass
        release_memory()
        whole = math.exp(-recording.log_likelihood)
        rows = [["original, float32", "", f"{whole:.2f}", "", "", ""]]
        for scheme in SCHEMES:
            for maker, folder in self._makers(scheme):
                score = self.score(folder, recording)
                print(json.dumps({"scheme": scheme, "maker": maker, **asdict(score)}), flush=True)
                change = score.perplexity / whole - 1
                rows.append(
                    [f"{scheme}, {maker}", f"{score.share:.3f}", f"{score.perplexity:.2f}", f"{change:+.1%}",
                     f"{score.kl:.4f}", f"{score.top1:.1%}"]
                )  # fmt: skip
        return table(["checkpoint", "linear weights", "perplexity", "change", "KL, nats", "top-1"], rows)

    def inputs(self) -> list[str]:
        """Return the table of what rounding the inputs alone costs."""
        with self._recorded() as (model, recording):
            whole = math.exp(-recording.log_likelihood)
            rows = [["none", f"{whole:.2f}", "", "", ""]]
            for scheme in INPUTS_ALONE:
                self.ours(scheme)
                with rounded_inputs(model, self.our_folder(scheme)):
                    found = score_model(model, recording)
                perplexity = math.exp(-found.log_likelihood / found.positions)
                rows.append(
                    [f"as {scheme}", f"{perplexity:.2f}", f"{perplexity / whole - 1:+.1%}",
                     f"{found.kl / found.positions:.4f}", f"{found.agreeing / found.positions:.1%}"]
                )  # fmt: skip
                print(rows[-1], flush=True)
        return table(["rounded inputs", "perplexity", "change", "KL, nats", "top-1"], rows)

    def _makers(self, scheme: str) -> list[tuple[str, Path]]:
        """Return the checkpoints of a scheme by maker; those whose making was timed are there already."""
        if not (stock := self.stock_folder(scheme)).is_dir():
            self.stock(scheme)
        made = [("ModelOpt", stock)]
        for options in ((), *VARIANTS.get(scheme, ())):
            if not (ours := self.our_folder(scheme, *options)).is_dir():
                self.ours(scheme, *options)
            made.append((" ".join(("edgellm", *options)), ours))
        return made

    def score(self, folder: Path, recording: TextRecording) -> Score:
        """Export a checkpoint and measure its graph."""
        path = self._exported(folder, folder.name)
        size, elements = linear_weights(onnx.load(str(path), load_external_data=False))
        found, _ = score_graph(self._proving(path), recording, Reporter("graph"))
        release_memory()
        return Score(
            share=size / (2 * elements),
            perplexity=math.exp(-found.log_likelihood / found.positions),
            kl=found.kl / found.positions,
            top1=found.agreeing / found.positions,
        )

    def _exported(self, folder: Path, name: str) -> Path:
        out = self.scratch / "exported" / name
        measure([EDGELLM, "export", folder, "-o", out], self.environ)
        return out / "llm" / "model.onnx"


@contextlib.contextmanager
def rounded_inputs(model: PreTrainedModel, folder: Path) -> Iterator[None]:
    """Round the inputs of linear layers in the body, with the scales of a quantized checkpoint; weights stay."""
    checkpoint = open_checkpoint(str(folder), registry=ModelRegistry.load(), report=Reporter("open"))
    layout = read_layout(checkpoint.directory, checkpoint.config, checkpoint.tensors)
    assert layout is not None
    stored, modules = StoredTensors(checkpoint.tensors), dict(model.named_modules())

    def hook(transform: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
        return lambda _module, arguments: (transform(arguments[0]), *arguments[1:])

    handles = []
    for name, form in layout.linears.items():
        transform = input_transform(form, stored.of_linear(name, form, weight=False), torch.float32)
        assert transform is not None
        handles.append(modules[name].register_forward_pre_hook(hook(transform)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def score_model(model: PreTrainedModel, recording: TextRecording) -> TextScore:
    """Score a model on the recorded text."""
    runner, ids = ReferenceRunner(model), recording.ids
    score = TextScore(positions=0, log_likelihood=0.0, kl=0.0, agreeing=0)
    for sample in range(len(ids)):
        runner.start()
        logits = runner.run(text_inputs(ids, sample))[0, :-1]
        wanted = recording.log_probabilities(sample)
        score += score_text(wanted, logits, best=recording.best[sample], following=ids[sample, 1:])
    return score


def write_section(name: str, lines: Sequence[str]) -> None:
    """Replace the measured table of one section of the page."""
    page = PAGE.read_text(encoding="utf-8")
    begin, end = (mark.replace("measured", f"measured {name}") for mark in (BEGIN, END))
    if begin not in page:
        page = f"{page}\n## {name.capitalize()}\n\n{begin}\n{end}\n"
    head, _, rest = page.partition(begin)
    PAGE.write_text("\n".join([head + begin, *lines, end + rest.partition(end)[2]]), encoding="utf-8")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--write", action="store_true", help="write the tables of the page")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="edgellm-bench-") as scratch:
        bench = Bench(Path(scratch))
        for name in options.only:
            lines = getattr(bench, name)()
            lines = [f"Calibrated on {SAMPLES} × {LENGTH} tokens of {bench.text}.", "", *lines]
            print("\n".join(lines), flush=True)
            if options.write:
                write_section(name, lines)
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
