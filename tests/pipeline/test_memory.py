"""``--max-memory`` is held by a whole build, and no stage takes more for a deeper model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.random_checkpoints import Shape, write_checkpoint

BUDGET_MIB = 1024
"""Less than the larger model takes as a whole: 0.7 GiB of weights in float32, on top of what the libraries take."""


def peaks(folder: Path, layers: int) -> dict[str, float]:
    """Build a model of wide layers in a process of its own; return the peak of each stage in MiB."""
    shape = Shape(
        model_type="llama", hidden=1024, intermediate=4096, layers=layers, heads=16, kv_heads=4, vocab=1024, tied=True
    )
    model, out = write_checkpoint(folder / f"model{layers}", shape), folder / f"bundle{layers}"
    command = [Path(sys.executable).with_name("edgellm"), "build", model, "-o", out, "--no-cache", "--engine", "none"]
    options = ["--precision", "bf16", "--max-memory", f"{BUDGET_MIB}MiB"]
    subprocess.run([*map(str, command), *options], check=True, capture_output=True)
    stages = json.loads((out / "bundle.json").read_text())["stages"]
    return {stage["name"]: stage["peak_rss_mib"] for stage in stages}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    return {layers: peaks(folder, layers) for layers in (2, 12)}


def test_no_stage_of_a_build_exceeds_its_budget(measured):
    assert {"bind", "twin", "verify", "answers", "sample"} <= measured[12].keys()
    assert {name: peak for name, peak in measured[12].items() if peak > BUDGET_MIB} == {}


def test_no_stage_grows_with_the_depth_of_the_model(measured):
    grown = {name: measured[12][name] / peak for name, peak in measured[2].items()}
    assert {name: ratio for name, ratio in grown.items() if ratio > 1.15} == {}
