"""Speed and memory of ``edgellm export``; writes docs/explanation/performance.md.

    python tests/benchmarks/bench_export.py [--reference-venv DIR] [--scratch DIR] [--write]

The random checkpoints that it needs (up to 15 GB, and the same again for what is exported) are written to a scratch
directory and removed. The peer runs in a virtual environment of its own, which is made when it is not there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from measuring import Run, drop_from_page_cache, measure, median_run, table
from random_checkpoints import Shape, write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "explanation" / "performance.md"
EDGELLM = Path(sys.executable).with_name("edgellm")
ROUNDS = 3
PEER_PINS = (
    "torch==2.13.0", "transformers==5.14.1", "huggingface-hub<2", "onnx==1.19.0", "onnxscript==0.7.1",
    "safetensors==0.8.0", "numpy==2.2.6", "onnx-graphsurgeon==0.6.1",
)  # fmt: skip
PEER = "tensorrt-edgellm==0.11.0"

NARROW = Shape(model_type="llama", hidden=256, intermediate=512, layers=2, heads=4, kv_heads=2, vocab=1024)
SIZES = {
    "0.1 B": Shape(model_type="llama", hidden=768, intermediate=2048, layers=12, heads=12, kv_heads=4, vocab=32000),
    "0.5 B": Shape(model_type="llama", hidden=1280, intermediate=3584, layers=24, heads=20, kv_heads=4, vocab=32000),
    "1.2 B": Shape(model_type="llama", hidden=2048, intermediate=8192, layers=16, heads=32, kv_heads=8, vocab=128256,
                   tied=True),
}  # fmt: skip
SEVEN_B = Shape(
    model_type="qwen2", hidden=3584, intermediate=18944, layers=28, heads=28, kv_heads=4, vocab=152064, bias=True
)


class Bench:
    """Runs the measurements one after the other and collects the page's sections."""

    def __init__(self, scratch: Path, peer: Path | None) -> None:
        self.scratch = scratch
        self.peer = peer
        self.environ = {"EDGELLM_CACHE": str(scratch / "cache")}
        self.sections: dict[str, str] = {}

    def export(self, model: Path, *options: str) -> tuple[Run, dict[str, float]]:
        """Export a model; return what it took, and the seconds of each stage."""
        out = self.scratch / "out"
        shutil.rmtree(out, ignore_errors=True)
        run = measure([EDGELLM, "export", model, "-o", out, *options], self.environ)
        stages = json.loads((out / "bundle.json").read_text())["stages"]
        shutil.rmtree(out)
        return run, {stage["name"]: stage["seconds"] for stage in stages}

    def build(self, model: Path, *options: str) -> Run:
        """Export a model and compare it with the original; return what it took."""
        out = self.scratch / "out"
        run = measure([EDGELLM, "build", model, "-o", out, "--no-cache", "--engine", "none", *options], self.environ)
        shutil.rmtree(out)
        return run

    def say(self, title: str, text: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Add a section with a table, and print it."""
        lines = [f"## {title}", "", text, "", *table(header, rows), ""]
        self.sections[title] = "\n".join(lines)
        print(self.sections[title], flush=True)

    def warm_up(self) -> None:
        """Bring the libraries of all commands into the page cache the same way.

        Right after an installation they lie there as large folios, which count whole in a process's resident size:
        the same code was measured with 400 and with 459 MiB in two equal virtual environments.
        """
        for environment in (Path(sys.prefix), self.peer):
            if environment is not None:
                drop_from_page_cache(environment)
        model = self._smollm2()
        if self.peer is not None:
            self._run_peer(model)

    def depth(self) -> None:
        """Depth 2, 8, 32 and 80 at equal width."""
        depths = (2, 8, 32, 80)
        models = {d: write_checkpoint(self.scratch / f"depth{d}", replace(NARROW, layers=d)) for d in depths}
        seconds: dict[int, list[float]] = {d: [] for d in depths}
        for _ in range(ROUNDS):
            for d in depths:
                _run, stages = self.export(models[d], "--no-cache")
                seconds[d].append(stages["trace"] + stages["surgery"])
        best = {d: min(values) for d, values in seconds.items()}
        rows = [[str(d), f"{best[d]:.2f}", f"{best[d] / best[2]:.2f}"] for d in depths]
        self.say("Depth", "Trace and surgery of a Llama of width 256 (best of three, taken in turn). Bound: below 1.5 "
                 "times from depth 2 to 80.", ["layers", "seconds", "to depth 2"], rows)  # fmt: skip

    def size(self) -> None:
        """0.1, 0.5 and 1.2 billion parameters."""
        peaks: dict[str, Run] = {}
        for name, shape in SIZES.items():
            model = write_checkpoint(self.scratch / "sized", shape)
            runs = [self.export(model, "--no-cache")[0] for _ in range(ROUNDS)]
            peaks[name] = min(runs, key=lambda run: run.peak_mb)
            shutil.rmtree(model)
        smallest = peaks["0.1 B"].peak_mb
        rows = [
            [f"{name} ({SIZES[name].parameters / 1e9:.2f})", f"{run.peak_mb:.0f}", f"{run.peak_mb / smallest:.2f}",
             f"{run.seconds:.1f}"] for name, run in peaks.items()
        ]  # fmt: skip
        self.say("Size", "Peak memory of the whole export, bfloat16 to float16. Bound: below 1.3 times from 0.1 B to "
                 "1.2 B.", ["parameters", "peak RSS, MB", "to 0.1 B", "seconds"], rows)  # fmt: skip

    def peer_ratio(self) -> None:
        """SmolLM2 beside the peer, alternating, then with the trace cached."""
        model = self._smollm2()
        commands: dict[str, Callable[[], Run]] = {
            "edgellm export": lambda: self.export(model, "--no-cache")[0],
            "edgellm export, trace cached": lambda: self.export(model)[0],
            "edgellm export --target edge-llm": lambda: self.export(model, "--no-cache", "--target", "edge-llm")[0],
            "edgellm build --target edge-llm, compared": lambda: self.build(model, "--target", "edge-llm"),
        }
        if self.peer is not None:
            commands = {PEER: lambda: self._run_peer(model), **commands}
        self.export(model)  # fills the trace cache
        runs: dict[str, list[Run]] = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, command in commands.items():
                runs[name].append(command())
        middle = {name: median_run(taken) for name, taken in runs.items()}
        base = middle[next(iter(middle))]
        rows = [
            [name, f"{run.seconds:.2f}", f"{run.seconds / base.seconds:.3f}", f"{run.cpu_seconds:.1f}",
             f"{run.peak_mb:.0f}", f"{run.peak_mb / base.peak_mb:.2f}"] for name, run in middle.items()
        ]  # fmt: skip
        self.say("Beside TensorRT-Edge-LLM", "SmolLM2-135M, float16 checkpoint to ONNX; medians of three, in turn."
                 " Bounds: 0.25 of its time and 0.55 of its memory; 0.08 of its time with the trace cached; for target"
                 " edge-llm 0.5 and 0.65.",
                 ["command", "seconds", "ratio", "CPU s", "peak RSS, MB", "ratio"], rows)  # fmt: skip

    def seven_billion(self) -> None:
        """A 7 B-shaped checkpoint beside ``cp``, source not in the page cache."""
        model = write_checkpoint(self.scratch / "seven", SEVEN_B)
        copy = self.scratch / "copy"

        def run_cp() -> Run:
            drop_from_page_cache(model)
            run = measure(["cp", "-r", model, copy])
            shutil.rmtree(copy)
            return run

        def run_export() -> Run:
            drop_from_page_cache(model)
            return self.export(model, "--no-cache")[0]

        copies, exports = [], []
        for _ in range(2):
            copies.append(run_cp())
            exports.append(run_export())
        shutil.rmtree(model)
        copied, exported = (min(runs, key=lambda run: run.seconds) for runs in (copies, exports))
        bound = 1.4 * copied.seconds + 8
        rows = [
            ["cp", f"{copied.seconds:.1f}", f"{copied.peak_mb:.0f}", ""],
            ["edgellm export", f"{exported.seconds:.1f}", f"{exported.peak_mb:.0f}", f"{bound:.1f} s, 600 MB"],
        ]
        self.say("Seven billion parameters", f"{SEVEN_B.parameters / 1e9:.1f} B Qwen2-shaped, bfloat16 to float16, "
                 f"{2 * SEVEN_B.parameters / 1e9:.1f} GB, source not in the page cache; best of two, taken in turn. "
                 "Bound: 1.4 times `cp` plus 8 s.", ["command", "seconds", "peak RSS, MB", "bound"], rows)  # fmt: skip

    def _smollm2(self) -> Path:
        measure([EDGELLM, "export", "smollm2-135m-instruct", "-o", self.scratch / "first"], self.environ)
        shutil.rmtree(self.scratch / "first")
        return next((self.scratch / "cache" / "checkpoints").glob("*/config.json")).parent

    def _run_peer(self, model: Path) -> Run:
        out = self.scratch / "peer"
        shutil.rmtree(out, ignore_errors=True)
        assert self.peer is not None
        run = measure([self.peer / "bin" / "tensorrt-edgellm-export", model, out])
        shutil.rmtree(out)
        return run


def make_peer(directory: Path) -> Path:
    """Return the peer's virtual environment, made with its pins where it is not there."""
    if not (directory / "bin" / "tensorrt-edgellm-export").exists():
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
        pip = [str(directory / "bin" / "pip"), "install", "--quiet"]
        subprocess.run([*pip, *PEER_PINS], check=True)
        subprocess.run([*pip, "--no-deps", PEER], check=True)
    return directory


def write_page(measured: dict[str, str]) -> None:
    """Write the page with the sections measured now in place of theirs; the others stay."""
    command = "python tests/benchmarks/bench_export.py --write"
    head = (
        f"# Performance\n\nMade by `{command}` on {os.cpu_count()} CPU cores, without a GPU. Times are noisy; ratios "
        "come from one run, in which the commands took turns.\n"
    )
    _head, *parts = PAGE.read_text(encoding="utf-8").split("\n## ")
    sections = {part.partition("\n")[0]: f"## {part}" for part in parts} | measured
    PAGE.write_text("\n".join([head, *(section.strip("\n") + "\n" for section in sections.values())]), encoding="utf-8")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference-venv", type=Path, default=ROOT / "build" / "peer")
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--only", nargs="*", default=["depth", "size", "peer_ratio", "seven_billion"])
    parser.add_argument("--write", action="store_true", help="write docs/explanation/performance.md")
    options = parser.parse_args()
    peer = make_peer(options.reference_venv) if "peer_ratio" in options.only else None
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="edgellm-bench-") as scratch:
        bench = Bench(Path(scratch), peer)
        bench.warm_up()
        for name in options.only:
            getattr(bench, name)()
    if options.write:
        write_page(bench.sections)


if __name__ == "__main__":
    main()
