"""RoPE that NVIDIA's runtime reads otherwise than transformers does, and what else it does by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, models, pre_tokenizers

from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from tests.corpus.case import Made, case
from tests.corpus.checkpoints import LLAMA, edit_json, llama

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = {"target": "edge-llm", "precision": "fp16"}
RIGHT: dict[str, Any] = {"outcome": "right", "settings": SETTINGS, "tolerance": 2e-2, "new_tokens": 0}
REFUSED: dict[str, Any] = {"outcome": "refused", "settings": SETTINGS}

BASE = {"rope_theta": 10000.0}
YARN = {"rope_type": "yarn", **BASE, "factor": 8.0, "original_max_position_embeddings": 32}
LONG = {
    "rope_type": "longrope", **BASE, "original_max_position_embeddings": 64,
    "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0],
}  # fmt: skip


def _rope(folder: Path, **parameters: Any) -> Made:
    """Write a Llama with heads of 8 channels and these parameters."""
    return Made(llama(folder, rope_parameters=parameters))


@case(**RIGHT, lengths=(3, 200))
def edge_yarn_mscale(folder: Path) -> Made:
    """YaRN whose factor comes from ``mscale`` and ``mscale_all_dim``, which the runtime does not read."""
    return _rope(folder, **YARN, mscale=1.0, mscale_all_dim=0.4)


@case(**RIGHT, lengths=(3, 200))
def edge_yarn_attention_factor(folder: Path) -> Made:
    """YaRN with a factor of its own, and bounds of the ramp that are null."""
    return _rope(folder, **YARN, attention_factor=1.4, beta_fast=None, beta_slow=2.0)


@case(**REFUSED, message="rope_scaling.truncate is false")
def edge_yarn_not_truncated(folder: Path) -> Made:
    """YaRN whose bounds are no whole channels; the runtime rounds them always."""
    return _rope(folder, **{**YARN, "original_max_position_embeddings": 128, "factor": 2.0}, truncate=False)


@case(**RIGHT, lengths=(3, 60), note="--maxKVCacheCapacity 64 or less")
def edge_longrope_short(folder: Path) -> Made:
    """LongRoPE in texts within the original context."""
    return _rope(folder, **LONG)


@case(**RIGHT, lengths=(3, 60), note="--maxKVCacheCapacity 64 or less")
def edge_longrope_of_phi(folder: Path) -> Made:
    """LongRoPE as Phi-4-mini has it: three quarters of each head, in the keys of transformers 4."""
    config = {
        **LLAMA, "model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "pad_token_id": 0,
        "original_max_position_embeddings": 64, "partial_rotary_factor": 0.75, "rope_theta": 10000.0,
    }  # fmt: skip
    made = Made(write_tiny_checkpoint(folder / "model", config))
    factors = {"short_factor": [1.0, 1.1, 1.2], "long_factor": [2.0, 3.0, 4.0]}
    edit_json(made.source / "config.json", rope_scaling={"type": "longrope", **factors}, remove=("rope_parameters",))
    return made


@case(**REFUSED, message="that of the model is 1.6")
def edge_longrope_attention_factor(folder: Path) -> Made:
    """LongRoPE with a factor of its own; the runtime makes its from the two contexts."""
    return _rope(folder, **LONG, attention_factor=1.6)


@case(**RIGHT, lengths=(3, 200))
def edge_llama3(folder: Path) -> Made:
    """Llama 3.1's bands: a part of the channels keeps its angles, a part is divided, a part lies between."""
    return _rope(
        folder, rope_type="llama3", **BASE, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=128,
    )  # fmt: skip


@case(**RIGHT, lengths=(3, 200))
def edge_linear(folder: Path) -> Made:
    """Linear scaling, which the runtime knows only as ``proportional``."""
    return _rope(folder, rope_type="linear", **BASE, factor=2.5)


@case(**RIGHT, lengths=(3, 200))
def edge_linear_of_transformers_4(folder: Path) -> Made:
    """Linear scaling as older checkpoints state it: ``rope_scaling`` with ``type``."""
    made = _rope(folder, rope_type="default", **BASE)
    path = made.source / "config.json"
    edit_json(path, remove=("rope_parameters",), rope_scaling={"type": "linear", "factor": 4.0}, rope_theta=5000.0)
    return made


@case(**REFUSED, message="no rope_type 'linear' for a part of each head")
def edge_linear_partial(folder: Path) -> Made:
    """Linear scaling of the first half of each head."""
    config = {
        **LLAMA, "model_type": "stablelm", "architectures": ["StableLmForCausalLM"], "use_qkv_bias": False,
        "rope_parameters": {"rope_type": "linear", **BASE, "factor": 4.0, "partial_rotary_factor": 0.5},
    }  # fmt: skip
    return Made(write_tiny_checkpoint(folder / "model", config))


@case(**RIGHT, lengths=(3, 200))
def edge_dynamic(folder: Path) -> Made:
    """Dynamic scaling within ``max_position_embeddings``, beyond which the runtime makes no table."""
    return _rope(folder, rope_type="dynamic", **BASE, factor=4.0)


@case(**REFUSED, message="computes other RoPE angles than 'model.rotary_emb'")
def edge_alpha_that_only_the_runtime_reads(folder: Path) -> Made:
    """``alpha`` in a Llama, which transformers ignores and the runtime takes for hunyuan's."""
    made = _rope(folder, rope_type="dynamic", **BASE, factor=4.0)
    edit_json(made.source / "config.json", rope_parameters={"rope_type": "dynamic", **BASE, "factor": 4.0, "alpha": 50})
    return made


@case(**RIGHT, lengths=(3, 200))
def edge_mrope_section(folder: Path) -> Made:
    """Sections of MRoPE in a model of text, which would make the runtime wait for images."""
    made = _rope(folder, rope_type="default", **BASE)
    sections = {"rope_type": "default", **BASE, "mrope_section": [1, 1, 2]}
    edit_json(made.source / "config.json", rope_parameters=sections)
    return made


@case(**RIGHT, lengths=(3, 200))
def edge_proportional(folder: Path) -> Made:
    """A quarter of the channels turns, by constants of the whole head."""
    return _rope(folder, rope_type="proportional", **BASE, partial_rotary_factor=0.5)


@case(**RIGHT, lengths=(3, 200))
def edge_partial(folder: Path) -> Made:
    """Half of each head is rotated."""
    config = {
        **LLAMA, "model_type": "stablelm", "architectures": ["StableLmForCausalLM"], "use_qkv_bias": False,
        "rope_parameters": {"rope_type": "default", **BASE, "partial_rotary_factor": 0.5},
    }  # fmt: skip
    return Made(write_tiny_checkpoint(folder / "model", config))


@case(**RIGHT, note="which makes")
def edge_tokenizer_by_merges(folder: Path) -> Made:
    """Merges in another order than ids: the runtime merges by id."""
    made = _rope(folder, rope_type="default", **BASE)
    vocabulary = {chr(byte): byte - 0x21 for byte in range(0x21, 0x71)} | {"ap": 81, "ca": 82, "Ġ": 83, "Ċ": 84}
    vocabulary |= {letter: 85 + index for index, letter in enumerate("tuvwyz")} | {"s": 91, "r": 92, "q": 93}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("c", "a"), ("a", "p")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.save(str(made.source / "tokenizer.json"))
    return made
