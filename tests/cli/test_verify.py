"""``edgellm verify``."""

from __future__ import annotations

import json
import shutil

import onnx
import pytest
from click.testing import CliRunner
from transformers import AutoTokenizer

from edgellm_core.bundle import file_records, read_manifest, write_manifest
from edgellm_core.bundle.errors import DamagedBundleError
from edgellm_core.cli import edgellm
from edgellm_core.host import PluginHost
from edgellm_core.pipeline.build import build
from edgellm_core.pipeline.settings import BuildSettings
from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from edgellm_core.verification.budget import FIXED_BYTES
from edgellm_core.verification.errors import (
    NarrowComputationError,
    QuantizedSourceMissingError,
    SourceDiffersError,
    VerificationFailedError,
)
from tests.stock_modelopt import export_stock


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A tiny checkpoint and its unverified export."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGELLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = tmp_path_factory.mktemp("verify")
        config = dict(PluginHost.load(environ={}).select({}, forced="qwen2").family.tiny_config())
        write_tiny_checkpoint(folder / "checkpoint", config)
        AutoTokenizer.from_pretrained(folder / "checkpoint").save_pretrained(folder / "checkpoint")  # of Qwen2's class
        settings = BuildSettings(precision="fp16", verify="off", engine="none")
        build(str(folder / "checkpoint"), folder / "bundle", settings)
        yield folder


@pytest.fixture
def bundle(original, tmp_path):
    return shutil.copytree(original / "bundle", tmp_path / "bundle")


def test_a_tokenizer_that_was_changed_is_refused(bundle):
    path = bundle / "llm" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "eos_token": "<s>"}))
    write_manifest(bundle, read_manifest(bundle).model_copy(update={"files": tuple(file_records(bundle))}))
    result = invoke(bundle)
    assert result.exit_code == 1
    assert "its eos_token is '<s>' and not '</s>'" in str(result.exception or result.output)


def invoke(*arguments):
    return CliRunner().invoke(edgellm, ["verify", *map(str, arguments)])


def test_an_exported_bundle_is_marked_as_verified(bundle):
    assert read_manifest(bundle).verification.status == "skipped"
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file() and path.name != "bundle.json"}
    result = invoke(bundle)
    assert result.exit_code == 0, result.output
    record = read_manifest(bundle).verification
    assert (record.status, record.prompts) == ("passed", 4)
    assert {path: path.read_bytes() for path in before} == before
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["check", "prompt", "steps", "max_rel_err", "tokens", "equal"]
    assert sum(line.startswith("prompt alone") for line in lines) == 4
    assert sum(line.startswith("padded batch") for line in lines) == 2
    assert "Passed: max_rel_err" in result.stdout
    assert read_manifest(bundle).tokenizer.status == "equal"
    assert "Qwen2ForCausalLM in float32, weights rounded to float16; the graph ran" in result.stdout


def test_the_result_can_be_had_as_json_within_a_budget(bundle):
    lines = invoke(bundle, "--max-memory", str(FIXED_BYTES + 800_000), "--json").stdout.splitlines()
    result = json.loads(lines[-1])
    assert result["verification"]["status"] == "passed"
    assert sum("original, " in line for line in lines) > 1  # part by part
    assert {check["case"] for check in result["checks"]} >= {"prompt alone", "padded batch", "chunked prompt"}
    assert json.loads(lines[0])["event"] == "start"


def test_a_verified_bundle_keeps_its_record(bundle):
    assert invoke(bundle).exit_code == 0
    before = (bundle / "bundle.json").read_bytes()
    assert invoke(bundle, "--max-memory", str(FIXED_BYTES + 800_000)).exit_code == 0
    assert (bundle / "bundle.json").read_bytes() == before


def test_a_wrong_graph_is_refused_and_the_manifest_stays(bundle):
    path = bundle / "llm" / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        if node.op_type == "Attention":
            next(item for item in node.attribute if item.name == "scale").f *= 1.5
    onnx.save(model, path)
    sign(bundle)
    before = (bundle / "bundle.json").read_bytes()
    result = invoke(bundle)
    assert result.exit_code == 1
    assert isinstance(result.exception, VerificationFailedError)
    assert "decoder layer 0" in str(result.exception)
    assert (bundle / "bundle.json").read_bytes() == before


def test_a_norm_that_was_narrowed_is_refused(bundle):
    path = bundle / "llm" / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    node = next(node for node in model.graph.node if node.op_type == "RMSNormalization" and "layers.1/" in node.name)
    node.attribute.append(onnx.helper.make_attribute("stash_type", onnx.TensorProto.FLOAT16))
    onnx.save(model, path)
    sign(bundle)
    result = invoke(bundle)
    assert result.exit_code == 1
    assert isinstance(result.exception, NarrowComputationError)
    assert "norm in float16" in str(result.exception)
    assert "in decoder layer 1" in str(result.exception)
    assert read_manifest(bundle).verification.status == "skipped"


def sign(bundle):
    """Make the manifest say what the files are, as if the wrong graph had been published."""
    from edgellm_core.bundle import file_records, write_manifest

    manifest = read_manifest(bundle)
    write_manifest(bundle, manifest.model_copy(update={"files": tuple(file_records(bundle))}))


def test_a_damaged_bundle_is_refused(bundle):
    with (bundle / "llm" / "model.onnx").open("ab") as stream:
        stream.write(b"x")
    assert isinstance(invoke(bundle).exception, DamagedBundleError)


def test_another_source_is_refused(bundle, tmp_path):
    config = dict(PluginHost.load(environ={}).select({}, forced="qwen2").family.tiny_config())
    other = write_tiny_checkpoint(tmp_path / "other", {**config, "intermediate_size": 80})
    error = invoke(bundle, "--source", other).exception
    assert isinstance(error, SourceDiffersError)
    assert "was built from a checkpoint with digest" in str(error)


def test_the_source_may_have_moved(bundle, original, tmp_path):
    moved = shutil.copytree(original / "checkpoint", tmp_path / "moved")
    assert invoke(bundle, "--source", moved).exit_code == 0


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """ModelOpt's own fp8 checkpoint and its unverified export."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGELLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = tmp_path_factory.mktemp("stock")
        export_stock(folder / "checkpoint", "fp8")
        build(str(folder / "checkpoint"), folder / "bundle", BuildSettings(verify="off", engine="none"))
        yield folder


def test_a_bundle_of_a_quantized_checkpoint_is_verified(stock, tmp_path):
    bundle = shutil.copytree(stock / "bundle", tmp_path / "bundle")
    result = invoke(bundle)
    assert result.exit_code == 0, result.output
    record = read_manifest(bundle).verification
    assert record.status == "passed"
    assert record.max_rel_err < 5e-6
    assert "dequantized weights of 14 linear layers; rounding by modelopt" in record.reference


def test_a_bundle_that_its_build_quantized_is_compared_with_a_quantized_checkpoint(stock, original, tmp_path):
    bundle = shutil.copytree(stock / "bundle", tmp_path / "bundle")
    manifest = read_manifest(bundle)
    unquantized = read_manifest(original / "bundle").source
    quantize = manifest.stages[0].model_copy(update={"name": "quantize"})
    write_manifest(bundle, manifest.model_copy(update={"source": unquantized, "stages": (quantize, *manifest.stages)}))
    error = invoke(bundle).exception
    assert isinstance(error, QuantizedSourceMissingError)
    assert "checkpoint that its build quantized to fp8" in str(error)
    assert invoke(bundle, "--source", stock / "checkpoint").exit_code == 0
