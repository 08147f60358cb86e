"""Writes small GGUF files with the gguf package."""

from __future__ import annotations

import re

import gguf
import numpy as np

VOCABULARY = ["<unk>", "<s>", "</s>", *(chr(code) for code in range(97, 123)), "Ġ", "ab", "Ċ"]


def write_llama_gguf(path, *, largest=1.0, split="smollm", stops=(2, 1), tied=True, architecture="llama", kinds=None):
    """Write a two-layer Llama of width 32 whose largest weight is ``largest``.

    ``kinds`` are regular expressions of names, and the element types that such tensors have; others are float32.
    """
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(5000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(VOCABULARY))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([3, 3, 3, *[1] * (len(VOCABULARY) - 3)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(stops[0])
    if len(stops) > 1:
        writer.add_eot_token_id(stops[1])
    for name, value in llama_tensors(largest, tied=tied):
        kind = next((found for pattern, found in (kinds or {}).items() if re.fullmatch(pattern, name)), "F32")
        number = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, gguf.quantize(value, number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def llama_tensors(largest, *, tied):
    generator = np.random.default_rng(0)

    def random(*shape):
        return generator.uniform(-0.1, 0.1, shape).astype(np.float32)

    embedding = random(len(VOCABULARY), 32)
    embedding[3, 5] = largest
    yield "token_embd.weight", embedding
    for layer in range(2):
        prefix = f"blk.{layer}."
        yield prefix + "attn_norm.weight", 1 + random(32)
        yield prefix + "ffn_norm.weight", 1 + random(32)
        yield prefix + "attn_q.weight", random(32, 32)
        yield prefix + "attn_k.weight", random(16, 32)
        yield prefix + "attn_v.weight", random(16, 32)
        yield prefix + "attn_output.weight", random(32, 32)
        yield prefix + "ffn_gate.weight", random(48, 32)
        yield prefix + "ffn_up.weight", random(48, 32)
        yield prefix + "ffn_down.weight", random(32, 48)
    yield "output_norm.weight", 1 + random(32)
    if not tied:
        yield "output.weight", random(len(VOCABULARY), 32)
