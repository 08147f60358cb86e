"""``edgellm bundle verify``: digests alone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from edgellm_core.bundle.errors import DamagedBundleError, NotABundleError
from edgellm_core.cli import edgellm
from edgellm_core.testing.decoder_bundle import write_decoder_bundle


@pytest.fixture
def bundle(tmp_path):
    return write_decoder_bundle(tmp_path / "bundle").directory


def verify(*arguments):
    return CliRunner().invoke(edgellm, ["bundle", "verify", *map(str, arguments)])


def test_a_whole_bundle_is_told(bundle):
    result = verify(bundle)
    assert result.exit_code == 0, result.exception
    assert "each as bundle.json says." in result.output
    assert "Its proof: skipped" in result.output


def test_json_has_every_file(bundle):
    told = json.loads(verify(bundle, "--json").output)
    listed = json.loads((bundle / "bundle.json").read_text())["files"]
    assert told == {"bundle": str(bundle), "files": listed, "bytes": sum(record["bytes"] for record in listed)}


def test_one_changed_bit_is_found(bundle):
    path = bundle / "llm/model.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    result = verify(bundle)
    assert result.exit_code == 1
    with pytest.raises(DamagedBundleError, match=r"llm/model\.onnx"):
        raise result.exception


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(NotABundleError, match="bundle"):
        raise verify(tmp_path).exception


def test_it_needs_neither_torch_nor_onnx(bundle):
    script = (
        "import sys; from click.testing import CliRunner; from edgellm_core.cli import edgellm\n"
        f"assert CliRunner().invoke(edgellm, ['bundle', 'verify', {str(bundle)!r}]).exit_code == 0\n"
        "assert not {'torch', 'transformers', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
