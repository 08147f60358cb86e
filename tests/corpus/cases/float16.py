"""What float16 does to large scores, rare tokens, norms and angles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.corpus.case import Made, case
from tests.corpus.checkpoints import edit_tensors, llama
from tests.large_scores import write_large_scores

NARROW = Path(__file__).parents[1] / "plugins" / "narrow_families.py"


def narrow(family: str, precision: str = "fp16") -> dict[str, Any]:
    """Return the settings of a build with a family that computes in too narrow a type."""
    return {"precision": precision, "family": family, "plugin_paths": (NARROW,), "quality": "off"}


def large_keys(folder: Path) -> Path:
    """Write a Qwen2 whose channels that RoPE hardly turns lift all scores to several hundred."""
    source = llama(
        folder, model_type="qwen2", architectures=["Qwen2ForCausalLM"], hidden_size=128, num_attention_heads=2,
        num_key_value_heads=1, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )  # fmt: skip

    def lift(tensors):
        for name, tensor in tensors.items():
            size = {"q_proj": 8.0, "k_proj": 300.0}.get(name.split(".")[-2])
            for channel in range(31, len(tensor), 32) if size else ():
                tensor[channel] = size if name.endswith("bias") else 0
        return tensors

    edit_tensors(source, lift)
    return source


@case(outcome="right", settings={"precision": "fp16"}, tolerance=0.4, new_tokens=0)
def large_scores(folder: Path) -> Made:
    """Attention scores of several hundred: right, although ONNX Runtime's CPU kernel rounds them to float16."""
    return Made(large_keys(folder))


@case(outcome="right", settings={"precision": "fp16", "attention_scores": "fp32"}, tolerance=2e-2, new_tokens=0)
def scores_that_float32_rounds(folder: Path) -> Made:
    """Scores of 600, at which float32 itself is farther from float64 than the gate allows."""
    write_large_scores(folder / "model")
    return Made(folder / "model")


@case(outcome="right", settings={"precision": "fp16", "attention_scores": "fp32"}, tolerance=2e-2, new_tokens=0)
def large_scores_in_float32(folder: Path) -> Made:
    """The same with `--attention-scores fp32`, near on every runtime."""
    return Made(large_keys(folder))


@case(outcome="right", settings={"precision": "bf16", "attention_scores": "fp32"}, tolerance=0.15, new_tokens=0)
def large_scores_in_bfloat16(folder: Path) -> Made:
    """The same in bfloat16, whose numbers have 8 bits."""
    return Made(large_keys(folder))


@case(
    outcome="refused",
    values_only=True,
    settings={"precision": "fp16"},
    message="'model.layers.1.mlp.down_proj' in decoder layer 1",
)
def activation_beyond_float16(folder: Path) -> Made:
    """Values inside an MLP that leave float16's range, and come back."""
    source = llama(folder)

    def grow(tensors):
        for part, by in (("gate_proj", 1e3), ("up_proj", 1e3), ("down_proj", 1e-3)):
            tensors[f"model.layers.1.mlp.{part}.weight"] *= by
        return tensors

    edit_tensors(source, grow)
    return Made(source)


@case(outcome="refused", settings=narrow("narrow-norm"), message="in float16 where the original widens to float32")
def norm_in_float16(folder: Path) -> Made:
    """A family's norm that does not widen to float32, as transformers' does."""
    return Made(llama(folder))


@case(
    outcome="refused",
    settings=narrow("narrow-norm", "bf16"),
    message="in bfloat16 where the original widens to float32",
)
def norm_in_bfloat16(folder: Path) -> Made:
    """The same in bfloat16."""
    return Made(llama(folder))


@case(outcome="refused", settings=narrow("narrow-squares"), message="squares in float16")
def squares_in_float16(folder: Path) -> Made:
    """A norm that widens after squaring, when values beyond 256 are infinite already."""
    return Made(llama(folder))


@case(outcome="refused", settings=narrow("rounded-frequencies"), message="exceeds 0.0001")
def frequencies_in_float16(folder: Path) -> Made:
    """RoPE frequencies that were rounded to float16."""
    return Made(llama(folder))


@case(outcome="refused", settings=narrow("narrow-angles"), message="the angles of RoPE in float16")
def angles_in_float16(folder: Path) -> Made:
    """RoPE angles in float16: of position 2,048 they are off by one."""
    return Made(llama(folder))


@case(outcome="refused", settings=narrow("narrow-positions", "bf16"), message="the angles of RoPE in bfloat16")
def positions_in_bfloat16(folder: Path) -> Made:
    """Positions in bfloat16, which counts to 256."""
    return Made(llama(folder))


@case(
    outcome="refused",
    settings={"precision": "fp16"},
    message="'model.layers.0.mlp.down_proj' in decoder layer 0",
    values_only=True,
)
def rare_token(folder: Path) -> Made:
    """A token that no prompt holds drives an activation past float16."""
    source = llama(folder, vocab_size=5000, hidden_size=96, num_attention_heads=6)

    def heat(tensors):
        tensors["model.embed_tokens.weight"][4321] = 0
        tensors["model.embed_tokens.weight"][4321, 0] = 250.0
        for part in ("gate_proj", "up_proj"):
            tensors[f"model.layers.0.mlp.{part}.weight"][:, 0] = 30.0
        tensors["model.layers.0.post_attention_layernorm.weight"].fill_(1.0)
        return tensors

    edit_tensors(source, heat)
    return Made(source)
