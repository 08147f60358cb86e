"""Which model types of transformers are decoder-only language models, and why the others are not."""

from __future__ import annotations

from typing import Final

ENCODER: Final = "an encoder trained on masked words, with a head for causal use"
HALF: Final = "the decoder of an encoder-decoder model, which attends to an encoder"
COMPOSITE: Final = "a composite with other modalities; its text part, where it can stand alone, has a type of its own"
ASSISTANT: Final = "a draft model that reads the KV cache of the model that it assists"
PERMUTED: Final = "predicts words in a permuted order, through a second stream of queries"
ALIAS: Final = "another name of gpt2: its configurations are read as those of gpt2"

_REASONS: Final = {
    ENCODER: (
        "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert",
        "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm", "xlm-roberta", "xlm-roberta-xl",
        "xmod",
    ),
    HALF: (
        "bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian", "mbart", "mvp", "pegasus", "plbart",
        "prophetnet", "trocr", "whisper",
    ),
    COMPOSITE: (
        "dots3_note", "emu3", "fuyu", "gemma3", "gemma3n", "gemma4", "gemma4_unified", "git", "got_ocr2", "llama4",
        "mllama", "moshi", "moss_transcribe_diarize", "musicgen", "musicgen_melody", "phi4_multimodal", "qwen3_5",
        "qwen3_5_moe", "qwen4_exp",
    ),
    ASSISTANT: ("gemma4_assistant", "gemma4_unified_assistant"),
    PERMUTED: ("xlnet",),
    ALIAS: ("gpt-sw3",),
}  # fmt: skip

NOT_DECODER_ONLY: Final = {model_type: reason for reason, types in _REASONS.items() for model_type in types}
"""Model type that transformers registers for causal language modelling → why the walk leaves it out."""


def decoder_only_types() -> list[str]:
    """Return the decoder-only causal language models of the installed transformers, sorted.

    A type that a later transformers adds is among them until it is listed above.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(NOT_DECODER_ONLY))
