"""Tiny checkpoints, their exported graphs, and copies of them to break."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgellm_core.events import Reporter
from edgellm_core.host import PluginHost
from edgellm_core.pipeline.build import build
from edgellm_core.pipeline.settings import BuildSettings
from edgellm_core.pipeline.sources import open_source
from edgellm_core.registry import ModelRegistry
from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from edgellm_core.verification.gate import verify_graph
from tests.pipeline.test_imported import AWQ, GPTQ, awq_tensors, gptq_tensors, written
from tests.stock_modelopt import export_stock, tiny_llama

if TYPE_CHECKING:
    from pathlib import Path

    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.contract import ModelFamily

PACKED = {
    "awq": (AWQ, awq_tensors, lambda: {"symmetric": False}),
    "gptq": (GPTQ | {"desc_act": True}, gptq_tensors, lambda: {"order": np.random.default_rng(1)}),
}
"""Checkpoints of other tools: with zero points, and with inputs in another order."""


@dataclass
class Exported:
    checkpoint: Checkpoint
    family: ModelFamily
    bundle: Path
    precision: str

    @property
    def model(self):
        return self.bundle / "llm" / "model.onnx"

    def verify(self, *, tolerance=None, notes=None, max_memory=None):
        def listener(event):
            if notes is not None and event.event == "note":
                notes.append(event.message)

        return verify_graph(
            self.model,
            self.checkpoint,
            self.family,
            precision=self.precision,
            tolerance=tolerance,
            max_memory=max_memory,
            report=Reporter("verify", listener),
        )

    def copy(self, folder):
        """Return the same export with a graph and data file of its own."""
        shutil.copytree(self.bundle, folder)
        return Exported(self.checkpoint, self.family, folder, self.precision)


def _export(directory, out, precision):
    build(str(directory), out, BuildSettings(precision=precision, verify="off", engine="none"))
    checkpoint = open_source(str(directory), registry=ModelRegistry.load(), report=Reporter("checkpoint"))
    return Exported(checkpoint, PluginHost.load(environ={}).select(checkpoint.config).family, out, precision)


@pytest.fixture(scope="session")
def export_checkpoint():
    """Function from a checkpoint's directory, an output directory and a precision to the export."""
    return _export


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Function from family, precision, checkpoint dtype and tokenizer to its export, made once."""
    made = {}
    checkpoints = {}

    def make(family, precision="fp32", dtype="float32", *, tokenizer=True):
        key = family, precision, dtype, tokenizer
        if key not in made:
            source = family, dtype, tokenizer
            if source not in checkpoints:
                config = dict(PluginHost.load(environ={}).select({}, forced=family).family.tiny_config())
                directory = tmp_path_factory.mktemp("checkpoint") / family
                checkpoints[source] = write_tiny_checkpoint(directory, config, dtype=dtype, tokenizer=tokenizer)
            out = tmp_path_factory.mktemp("export") / f"{family}-{precision}"
            made[key] = _export(checkpoints[source], out, precision)
        return made[key]

    return make


@pytest.fixture(scope="session")
def quantized(tmp_path_factory):
    """Function from scheme and precision to the export of ModelOpt's own checkpoint, or another tool's, made once."""
    checkpoints, made = {}, {}

    def make(scheme, precision="fp16"):
        if (scheme, precision) not in made:
            if scheme not in checkpoints:
                checkpoints[scheme] = tmp_path_factory.mktemp("checkpoint") / scheme
                if scheme in PACKED:
                    quantization, tensors, options = PACKED[scheme]
                    written(checkpoints[scheme], quantization, tensors, **options())
                else:
                    name, _, cache = scheme.partition("-")
                    export_stock(checkpoints[scheme], name, model=tiny_llama(), kv_cache=bool(cache))
            out = tmp_path_factory.mktemp("export") / scheme
            made[scheme, precision] = _export(checkpoints[scheme], out, precision)
        return made[scheme, precision]

    return make
