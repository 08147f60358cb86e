"""Models that the graph could not reproduce: one sentence each, and not a line of logs."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
from decoders import fields_of
from transformers.models.llama import modeling_llama

from edgellm_core.errors import UserError
from edgellm_core.testing.lowering import transformers_config
from edgellm_core.tracing.attention import TraceContext, record_attention
from edgellm_core.tracing.errors import UnsupportedArchitectureError, UntraceableModelError
from edgellm_core.tracing.modeling_code import quiet_libraries, refused_as_untraceable
from edgellm_core.tracing.trace import trace

RWKV = {"vocab_size": 131, "hidden_size": 48, "num_hidden_layers": 2, "attention_hidden_size": 48}
OPENAI_GPT = {"vocab_size": 131, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64}

REFUSED = {
    "rwkv": ({"model_type": "rwkv", **RWKV}, r"RwkvForCausalLM .*instead of the KV cache it was given"),
    "openai-gpt": ({"model_type": "openai-gpt", **OPENAI_GPT}, r"OpenAIGPTLMHeadModel .*instead of the KV cache"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_the_graph_could_not_reproduce_is_refused(name, plain_family, report, capfd):
    fields, expected = REFUSED[name]
    with pytest.raises(UntraceableModelError, match=expected) as caught:
        trace(transformers_config(fields), plain_family, "fp32", full_depth=False, report=report)
    assert str(caught.value).endswith("A family plugin has to handle it.")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_nothing_is_logged_in_a_fresh_process():
    """torch sets its loggers up once per process, on stderr; the fake kernel of this operator logs what it raises."""
    program = f"""
import torch
from transformers import AutoConfig
from transformers.models.llama import modeling_llama
from edgellm_core.events import Reporter
from edgellm_core.errors import UserError
from edgellm_core.generic import GenericFamily
from edgellm_core.tracing.trace import trace
modeling_llama.LlamaMLP.forward = lambda self, x: torch._grouped_mm(x, self.up_proj.weight[None])
config = AutoConfig.for_model(**{fields_of("llama")!r})
try:
    trace(config, GenericFamily(), "fp32", full_depth=False, report=Reporter("trace"))
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(
        "LlamaForCausalLM can't be exported: a forward without weights stopped with RuntimeError"
    )
    assert done.stderr == ""


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra"])
def test_an_encoder_is_refused(model_type, plain_family, report):
    fields = {"vocab_size": 131, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers_config({"model_type": model_type, **fields, "intermediate_size": 64})
    with pytest.raises(UnsupportedArchitectureError, match=rf"model_type '{model_type}'.*is_decoder is false"):
        trace(config, plain_family, "fp32", full_depth=False, report=report)


def test_a_config_without_a_causal_language_model_is_refused(plain_family, report):
    config = transformers_config({"model_type": "vit"})
    with pytest.raises(UnsupportedArchitectureError, match=r"'vit'.*has no causal language model for it"):
        trace(config, plain_family, "fp32", full_depth=False, report=report)


def test_a_config_that_fits_no_model_is_refused(plain_family, report):
    config = transformers_config({**fields_of("llama"), "pad_token_id": 500})
    with pytest.raises(UserError, match=r"LlamaForCausalLM .*building it from the config stopped with AssertionError"):
        trace(config, plain_family, "fp32", full_depth=False, report=report)


def test_code_that_depends_on_data_is_refused(plain_family, report, monkeypatch, capfd):
    forward = modeling_llama.LlamaMLP.forward

    def branch(self, x):
        return forward(self, x) if float(x.sum()) > 0 else x

    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", branch)
    with pytest.raises(UntraceableModelError, match=r"LlamaForCausalLM .*stopped with \w+: "):
        trace(transformers_config(fields_of("llama")), plain_family, "fp32", full_depth=False, report=report)
    assert capfd.readouterr().err == ""


def test_an_operator_that_onnx_lacks_is_named(plain_family, report, monkeypatch, capfd):
    forward = modeling_llama.LlamaMLP.forward

    def with_bessel(self, x):
        return torch.special.bessel_j0(forward(self, x))

    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", with_bessel)
    with pytest.raises(
        UntraceableModelError, match=r"LlamaForCausalLM .*ONNX has no form of its operator \S*bessel_j0"
    ):
        trace(transformers_config(fields_of("llama")), plain_family, "fp32", full_depth=False, report=report)
    assert capfd.readouterr().err == ""


def test_an_unknown_tensor_argument_of_attention_is_refused(plain_family, report, monkeypatch):
    forward = modeling_llama.LlamaAttention.forward

    def with_indices(self, hidden_states, *args, **kwargs):
        return forward(self, hidden_states, *args, indices=hidden_states, **kwargs)

    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", with_indices)
    expected = r"LlamaAttention .*its attention takes the unknown tensors \['indices'\]"
    with pytest.raises(UntraceableModelError, match=expected):
        trace(transformers_config(fields_of("llama")), plain_family, "fp32", full_depth=False, report=report)


def test_a_cache_that_is_updated_twice_is_refused(plain_family, report, monkeypatch):
    forward = modeling_llama.LlamaAttention.forward

    def twice(self, hidden_states, *args, **kwargs):
        forward(self, hidden_states, *args, **kwargs)
        return forward(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", twice)
    with pytest.raises(UntraceableModelError, match="updates the KV cache of one layer twice"):
        trace(transformers_config(fields_of("llama")), plain_family, "fp32", full_depth=False, report=report)


def test_sinks_of_another_rank_are_refused(plain_family):
    context = TraceContext(family=plain_family, valid=torch.ones(1, 2), input_ids=torch.zeros(1, 2))
    q = torch.zeros(1, 2, 2, 4)
    with pytest.raises(UntraceableModelError, match="its attention sinks have rank 2, not 1"):
        record_attention(context, torch.nn.Identity(), q, q, q, None, is_causal=False, s_aux=torch.zeros(2, 2))


@pytest.mark.parametrize(
    "error", [RuntimeError("boom.\nmore"), KeyError("boom"), IndexError("boom"), AttributeError("boom")], ids=repr
)
def test_whatever_a_model_raises_becomes_one_sentence(error):
    with (
        pytest.raises(UntraceableModelError, match=rf"M can't be exported: a step stopped with {type(error).__name__}"),
        refused_as_untraceable("M", "a step"),
    ):
        raise error


def test_our_own_errors_pass_unchanged():
    expected = pytest.raises(UntraceableModelError, match=r"^M can't be exported: reason")
    with expected, refused_as_untraceable("other", "a step"):
        raise UntraceableModelError("M", "reason")


def test_libraries_speak_again_afterwards(capfd):
    logger = logging.getLogger("torch.some.part")
    level = logger.level
    with quiet_libraries():
        logger.error("not heard")
        logging.getLogger("transformers.some.part").error("not heard")
        warnings.warn("not heard", UserWarning, stacklevel=1)
    assert logger.level == level
    with pytest.raises(UserWarning, match="heard"):
        warnings.warn("heard", UserWarning, stacklevel=1)
    assert "not heard" not in capfd.readouterr().err


def test_the_model_is_not_changed_by_a_refusal(plain_family, report):
    """The slots of transformers' attention interfaces are given back."""
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    before = SimpleNamespace(sdpa=AttentionInterface()["sdpa"], mask=ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    with pytest.raises(UntraceableModelError, match="RwkvForCausalLM"):
        trace(transformers_config(REFUSED["rwkv"][0]), plain_family, "fp32", full_depth=False, report=report)
    trace(transformers_config(fields_of("llama")), plain_family, "fp32", full_depth=False, report=report)
    assert AttentionInterface()["sdpa"] is before.sdpa
    assert ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] is before.mask
