"""A checkpoint that brings its own modeling code: refused unless that is trusted, and then proven by the gate."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from click.testing import CliRunner

from edgellm_core import api
from edgellm_core.checkpoint.source import open_checkpoint
from edgellm_core.cli import edgellm
from edgellm_core.events import Reporter, ignore_events
from edgellm_core.generic import GenericFamily
from edgellm_core.pipeline.build import build
from edgellm_core.pipeline.settings import BuildSettings
from edgellm_core.registry import ModelRegistry
from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from edgellm_core.tracing.errors import FailedCodeError, UntrustedCodeError
from edgellm_core.verification.errors import VerificationFailedError
from edgellm_core.verification.gate import verify_graph

CONFIGURATION = """
from transformers import LlamaConfig


class GlideConfig(LlamaConfig):
    model_type = "glide"
    logit_factor: float = 1.0
"""
MODELING = """
import torch
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from .configuration_glide import GlideConfig


class GlideForCausalLM(LlamaForCausalLM):
    config_class = GlideConfig

    def __init__(self, config):
        super().__init__(config)
        for layer in self.model.layers:
            layer.mlp.act_fn = torch.nn.Tanh()
            layer.self_attn.scaling *= 0.5

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * self.config.logit_factor
        return output
"""
CONFIG = {
    "model_type": "llama", "vocab_size": 131, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256,
    "pad_token_id": 0,
}  # fmt: skip
GLIDE = {
    "model_type": "glide",
    "architectures": ["GlideForCausalLM"],
    "logit_factor": 0.75,
    "auto_map": {
        "AutoConfig": "configuration_glide.GlideConfig",
        "AutoModelForCausalLM": "modeling_glide.GlideForCausalLM",
    },
}
TRUSTED = BuildSettings(precision="fp32", engine="none", trust_remote_code=True)


@pytest.fixture(scope="module", autouse=True)
def _modules(tmp_path_factory):
    """Keep the copies that transformers imports code from out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        patch.setattr(sys, "path", [*sys.path])
        yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        del sys.modules[name]


@pytest.fixture
def glide(tmp_path, monkeypatch):
    """Return the directory of a checkpoint of llama's tensors that its own code computes otherwise."""
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path / "cache"))
    directory = write_tiny_checkpoint(tmp_path / "glide", CONFIG)
    (directory / "configuration_glide.py").write_text(CONFIGURATION)
    (directory / "modeling_glide.py").write_text(MODELING)
    change_config(directory, **GLIDE)
    return directory


def change_config(directory, **fields):
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_trusted_code_is_built_and_proven(glide, tmp_path):
    manifest = build(str(glide), tmp_path / "bundle", TRUSTED).manifest
    assert manifest.family.name == "generic"
    assert manifest.verification.status == "passed"
    assert "GlideForCausalLM in float32" in manifest.verification.reference
    again = CliRunner().invoke(edgellm, ["verify", str(tmp_path / "bundle"), "--trust-remote-code"])
    assert again.exit_code == 0
    assert "GlideForCausalLM" in again.output


def test_llama_s_graph_of_the_same_tensors_fails_the_gate(glide, tmp_path):
    """So what the gate proves is the checkpoint's own code, not llama."""
    plain = tmp_path / "plain"
    shutil.copytree(glide, plain)
    change_config(plain, model_type="llama", architectures=["LlamaForCausalLM"])
    config = json.loads((plain / "config.json").read_text())
    del config["auto_map"], config["logit_factor"]
    (plain / "config.json").write_text(json.dumps(config))
    settings = BuildSettings(precision="fp32", engine="none", verify="off")
    bundle = build(str(plain), tmp_path / "bundle", settings)
    report = Reporter("verify", ignore_events)
    checkpoint = open_checkpoint(str(glide), registry=ModelRegistry.load(), report=report, trust_remote_code=True)
    with pytest.raises(VerificationFailedError):
        verify_graph(bundle.model_path, checkpoint, GenericFamily(), precision="fp32", report=report)


def test_a_change_of_the_code_is_traced_anew(glide, tmp_path):
    first = build(str(glide), tmp_path / "first", TRUSTED).manifest
    same = build(str(glide), tmp_path / "same", TRUSTED).manifest
    path = glide / "modeling_glide.py"
    path.write_text(path.read_text().replace("Tanh", "Sigmoid"))
    changed = build(str(glide), tmp_path / "changed", TRUSTED).manifest
    cached = [next(stage.cached for stage in m.stages if stage.name == "trace") for m in (first, same, changed)]
    assert cached == [False, True, False]
    assert changed.verification.status == "passed"


def test_untrusted_code_is_refused_and_never_runs(glide, tmp_path):
    (glide / "modeling_glide.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    expected = r"GlideForCausalLM in modeling_glide\.py, .*--trust-remote-code"
    with pytest.raises(UntrustedCodeError, match=expected):
        build(str(glide), tmp_path / "bundle", BuildSettings(engine="none"))
    survey = api.detect(glide, deep=True).survey
    assert "--trust-remote-code" in survey.refusal
    assert not (tmp_path / "ran").exists()


def test_code_that_fails_can_be_left_out_for_a_family(tmp_path):
    """As the refusal says: without --trust-remote-code, treated as a family."""
    llama = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 64, "hidden_size": 32,
        "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    }  # fmt: skip
    source = write_tiny_checkpoint(tmp_path / "llama", llama)
    change_config(
        source, model_type="unheard-of", auto_map={"AutoConfig": "absent.C", "AutoModelForCausalLM": "absent.D"}
    )
    with pytest.raises(FailedCodeError, match="leave --trust-remote-code out and name a family with --family"):
        build(str(source), tmp_path / "out", TRUSTED)
    bundle = build(str(source), tmp_path / "out", BuildSettings(engine="none", family="llama"))
    assert bundle.manifest.verification.status == "passed"


def test_deep_detection_of_trusted_code(glide):
    survey = api.detect(glide, deep=True, trust_remote_code=True).survey
    assert survey.refusal is None
    assert survey.model == "GlideForCausalLM"
    assert survey.groups[0].forms[0].what == "Attention(scale=0.125)"  # half of 16 ** -0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "modeling_glide.GlideForCausalLM"}}, "its auto_map has no AutoConfig"),
        ({"auto_map": {**GLIDE["auto_map"], "AutoConfig": "a/b--c.D"}}, "takes 'a/b--c.D' from another repository"),
        ({"auto_map": {**GLIDE["auto_map"], "AutoConfig": "absent.D"}}, "absent.D raised OSError"),
        ({"auto_map": {**GLIDE["auto_map"], "AutoConfig": "modeling_glide.D"}}, "modeling_glide.D raised AttributeE"),
    ],
)
def test_code_that_can_t_be_used_is_named(glide, tmp_path, change, message):
    change_config(glide, **change)
    with pytest.raises(FailedCodeError, match=message):
        build(str(glide), tmp_path / "bundle", TRUSTED)
