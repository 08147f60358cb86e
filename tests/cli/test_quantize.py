"""``edgellm quantize`` on the command line."""

from __future__ import annotations

import json

from click.testing import CliRunner

from edgellm_core.cli import edgellm
from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from tests.calibration.conftest import LLAMA

CALIBRATION = ["--calib-data", "builtin", "--calib-samples", "2", "--calib-length", "16"]


def test_quantize_writes_a_checkpoint_and_says_what_to_do_with_it(tmp_path):
    source = write_tiny_checkpoint(tmp_path / "source", LLAMA, dtype="float16")
    arguments = ["quantize", str(source), "-o", str(tmp_path / "out"), "--precision", "fp8", *CALIBRATION]
    skip = ["--skip", "*.layers.0.*", "--skip", "*.down_proj"]
    result = CliRunner().invoke(edgellm, [*arguments, *skip], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert f"edgellm build {tmp_path / 'out'}" in result.output
    described = json.loads((tmp_path / "out" / "hf_quant_config.json").read_text())["quantization"]
    assert "model.layers.0*" in described["exclude_modules"]
    assert "model.layers.1.mlp.down_proj" in described["exclude_modules"]
