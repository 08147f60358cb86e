"""Tiny checkpoints of families, built for target edge-llm once."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from edgellm_core.events import Reporter
from edgellm_core.host import PluginHost
from edgellm_core.pipeline.build import build
from edgellm_core.pipeline.settings import BuildSettings
from edgellm_core.pipeline.sources import open_source
from edgellm_core.registry import ModelRegistry
from edgellm_core.targets.edge_llm import EdgeLlmTarget
from edgellm_core.testing.checkpoints import write_family_checkpoint
from edgellm_core.verification.gate import verify_graph


@dataclass
class Built:
    checkpoint: Path
    bundle: object

    @property
    def model(self):
        return onnx.load(str(self.bundle.model_path), load_external_data=False)

    @property
    def plugins(self):
        """Attributes of every attention, in order."""
        nodes = [node for node in self.model.graph.node if node.op_type == "AttentionPlugin"]
        return [{one.name: onnx.helper.get_attribute_value(one) for one in node.attribute} for node in nodes]


@pytest.fixture(scope="session")
def edge_llm(tmp_path_factory):
    """Function from a family, and changes of its tiny config, to its checkpoint and verified bundle, made once."""
    made = {}

    def make(family, **changes):
        key = family, repr(sorted(changes.items()))
        if key not in made:
            chosen = PluginHost.load(environ={}).select({}, forced=family).family
            folder = tmp_path_factory.mktemp(family)
            config = {**chosen.tiny_config(), **changes}
            write_family_checkpoint(folder / "checkpoint", chosen, config=config)
            settings = BuildSettings(target="edge-llm", precision="fp16", engine="none")
            made[key] = Built(folder / "checkpoint", build(str(folder / "checkpoint"), folder / "bundle", settings))
        return made[key]

    return make


@pytest.fixture
def verify_copy(tmp_path):
    """Function from a bundle and a function that damages its ``llm`` folder to what the gate says of the copy."""

    def verify(built, damage):
        folder = Path(shutil.copytree(built.bundle.directory, tmp_path / "copy"))
        damage(folder / "llm")
        report = Reporter("verify")
        checkpoint = open_source(str(built.checkpoint), registry=ModelRegistry.load(), report=report)
        family = PluginHost.load(environ={}).select(checkpoint.config).family
        return verify_graph(
            folder / "llm" / "model.onnx",
            checkpoint,
            family,
            precision="fp16",
            target=EdgeLlmTarget(),
            report=report,
        )

    return verify
