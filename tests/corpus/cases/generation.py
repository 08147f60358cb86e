"""What transformers' ``generate`` does beside running the model: dropped caches, settings, ends of answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from tests.corpus.case import Made, case
from tests.corpus.checkpoints import LLAMA, edit_json, llama

if TYPE_CHECKING:
    from pathlib import Path

SWITCH = 32
LONGROPE: dict[str, Any] = {
    "rope_type": "longrope", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": SWITCH,
    "short_factor": [1.0, 1.05, 1.1, 1.2], "long_factor": [2.0, 6.0, 10.0, 14.0],
}  # fmt: skip
PHI3: dict[str, Any] = {
    **LLAMA, "model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "pad_token_id": 2,
    "original_max_position_embeddings": SWITCH, "rope_parameters": LONGROPE,
}  # fmt: skip
BEFORE = {"lengths": (3, SWITCH - 4), "new_tokens": 48}


def with_settings(folder: Path, **settings: Any) -> Made:
    """Write a small Llama with other settings of generation."""
    source = llama(folder)
    edit_json(source / "generation_config.json", **settings)
    return Made(source)


@case(outcome="right", note="reaches 33 tokens", **BEFORE)
def longrope_phi3(folder: Path) -> Made:
    """Phi-3 with LongRoPE, whose ``generate`` reads everything again where the answer passes the switch."""
    return Made(write_tiny_checkpoint(folder / "model", PHI3))


@case(outcome="right", note="reaches 41 tokens", lengths=(3, 20), new_tokens=48)
def reread_apart_from_the_rope_switch(folder: Path) -> Made:
    """Phi-3 whose config reads again at 41 tokens and changes its RoPE table at 33."""
    fields = {"original_max_position_embeddings": 40}
    return Made(write_tiny_checkpoint(folder / "model", PHI3 | fields))


@case(outcome="right", note="reaches 65 tokens", lengths=(3, 40), new_tokens=48)
def reread_without_longrope(folder: Path) -> Made:
    """Phi-3 with plain RoPE that names an original context: its ``generate`` reads again all the same."""
    rope = {"rope_type": "default", "rope_theta": 1e4}
    fields = {"original_max_position_embeddings": 64, "rope_parameters": rope}
    return Made(write_tiny_checkpoint(folder / "model", PHI3 | fields))


@case(outcome="right", **BEFORE)
def longrope_llama(folder: Path) -> Made:
    """Llama with LongRoPE, whose ``generate`` keeps the keys of the short table."""
    return Made(llama(folder, rope_parameters=LONGROPE))


@case(outcome="right", lengths=(3, 40), new_tokens=48)
def dynamic_ntk(folder: Path) -> Made:
    """Dynamic NTK scaling, whose frequencies change with every token beyond the original context."""
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    return Made(llama(folder, max_position_embeddings=48, rope_parameters=rope))


@case(outcome="right", new_tokens=48)
def several_stop_tokens(folder: Path) -> Made:
    """A list of tokens that end an answer."""
    return with_settings(folder, eos_token_id=[2, *range(20, 36)])


@case(outcome="right", new_tokens=48)
def stop_tokens_in_config(folder: Path) -> Made:
    """No generation_config.json: config.json says which tokens end an answer."""
    source = llama(folder)
    (source / "generation_config.json").unlink()
    edit_json(source / "config.json", eos_token_id=[2, *range(40, 60)])
    return Made(source)


@case(outcome="right", note="Answers go on after", new_tokens=48)
def no_stop_token(folder: Path) -> Made:
    """generation_config.json without eos_token_id: ``generate`` never stops, whatever config.json says."""
    source = llama(folder)
    edit_json(source / "generation_config.json", remove=("eos_token_id",))
    return Made(source)


@case(outcome="right", new_tokens=48)
def repetition_penalty(folder: Path) -> Made:
    """Qwen2.5's repetition penalty, which holds without sampling too, beside settings of sampling, which do not."""
    return with_settings(folder, repetition_penalty=1.2, do_sample=True, temperature=0.7, top_k=20, top_p=0.8)


@case(outcome="right", new_tokens=48)
def no_repeated_ngrams(folder: Path) -> Made:
    """Pairs of tokens that may come once only."""
    return with_settings(folder, no_repeat_ngram_size=2)


@case(outcome="right", new_tokens=48)
def suppressed_tokens(folder: Path) -> Made:
    """Tokens that are never chosen, and some that do not begin an answer."""
    return with_settings(folder, suppress_tokens=[*range(3, 30), -1], begin_suppress_tokens=list(range(30, 70)))


@case(outcome="right", new_tokens=48)
def least_length(folder: Path) -> Made:
    """Answers that may not end early, and are urged to end late."""
    return with_settings(
        folder, eos_token_id=list(range(2, 40)), min_new_tokens=12, exponential_decay_length_penalty=[14, 1.3]
    )


@case(outcome="right", new_tokens=48)
def bad_words_and_biases(folder: Path) -> Made:
    """Sequences that may not be written, and some that are more likely."""
    words = [[token] for token in range(10, 30)] + [[35, 36]]
    return with_settings(folder, bad_words_ids=words, sequence_bias=[[[50], 0.5], [[50, 51], 3.0]])


@case(outcome="right", note="does not apply num_beams = 4", new_tokens=0)
def beam_search(folder: Path) -> Made:
    """Beam search as the default, which ``edgellm run`` does not do."""
    return with_settings(folder, num_beams=4)


@case(outcome="refused", message="Setting 'suppress_tokens' of generation in")
def malformed_setting(folder: Path) -> Made:
    """A setting of another form than ``generate`` takes."""
    return with_settings(folder, suppress_tokens="none")
