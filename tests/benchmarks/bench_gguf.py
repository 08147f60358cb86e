"""Time and memory of reading a GGUF file, beside the ``gguf`` package's own reading of it.

    python tests/benchmarks/bench_gguf.py [--scratch DIR]

A Qwen3-shaped file of 0.6 B random numbers (Q4_K and Q6_K, 0.41 GB) with a vocabulary of 152 thousand tokens is written
to a scratch directory. Each command runs in a process of its own, in turn; times include its start. Bounds: 4 times the
time in which the ``gguf`` package dequantizes the tensors, and 600 MB.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
from measuring import Run, measure, median_run, table

ROUNDS = 3
HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS, HEAD, VOCABULARY = 1024, 3072, 28, 16, 8, 128, 151_936
BOUND, BOUND_MB = 4.0, 600.0
Q4_K, Q6_K = gguf.GGMLQuantizationType.Q4_K, gguf.GGMLQuantizationType.Q6_K
SCALES = {Q4_K: (0, 2), Q6_K: (208,)}
"""Where the float16 scales of a block lie; random bytes there would be no finite numbers."""

DEQUANTIZE = """
import sys, warnings, gguf
from pathlib import Path
from edgellm_core.checkpoint.gguf.parts import read_gguf
import numpy as np
warnings.simplefilter("ignore")
for tensor in read_gguf(Path(sys.argv[1])).tensors:
    kind = gguf.GGMLQuantizationType[tensor.element_type]
    data = np.fromfile(tensor.file, np.uint8, tensor.nbytes, offset=tensor.offset)
    gguf.dequantize(data.reshape(tensor.shape[0], -1), kind)
"""
READ = """
import sys, warnings, gguf
warnings.simplefilter("ignore")
for tensor in gguf.GGUFReader(sys.argv[1]).tensors:
    gguf.dequantize(tensor.data, tensor.tensor_type)
"""
CONVERT = """
import sys
from pathlib import Path
from edgellm_core.checkpoint.gguf.conversion import converted_checkpoint, model_digest
from edgellm_core.checkpoint.gguf.parts import read_gguf
from edgellm_core.events import Reporter
from edgellm_core.host import PluginHost
header = read_gguf(Path(sys.argv[1]))
converted_checkpoint(header, model_digest(header), PluginHost.load(), Reporter("checkpoint"))
"""


def write_random_gguf(path: Path) -> None:
    """Write the file."""
    writer = gguf.GGUFWriter(str(path), "qwen3")
    for key, value in {
        "block_count": LAYERS, "context_length": 40960, "embedding_length": HIDDEN,
        "feed_forward_length": INTERMEDIATE, "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS,
        "attention.key_length": HEAD, "attention.value_length": HEAD,
    }.items():  # fmt: skip
        writer.add_uint32(f"qwen3.{key}", value)
    writer.add_rope_freq_base(1e6)
    writer.add_layer_norm_rms_eps(1e-6)
    add_vocabulary(writer)
    generator = np.random.default_rng(0)
    add_blocks(writer, generator, "token_embd.weight", VOCABULARY, HIDDEN, Q6_K)
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    for prefix in (f"blk.{layer}." for layer in range(LAYERS)):
        for name, width in {"attn_norm": HIDDEN, "ffn_norm": HIDDEN, "attn_q_norm": HEAD, "attn_k_norm": HEAD}.items():
            writer.add_tensor(f"{prefix}{name}.weight", np.ones(width, np.float32))
        for name, rows, columns, kind in (
            ("attn_q", HEADS * HEAD, HIDDEN, Q4_K), ("attn_k", KV_HEADS * HEAD, HIDDEN, Q4_K),
            ("attn_v", KV_HEADS * HEAD, HIDDEN, Q6_K), ("attn_output", HIDDEN, HEADS * HEAD, Q4_K),
            ("ffn_gate", INTERMEDIATE, HIDDEN, Q4_K), ("ffn_up", INTERMEDIATE, HIDDEN, Q4_K),
            ("ffn_down", HIDDEN, INTERMEDIATE, Q6_K),
        ):  # fmt: skip
            add_blocks(writer, generator, f"{prefix}{name}.weight", rows, columns, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_blocks(
    writer: gguf.GGUFWriter, generator: np.random.Generator, name: str, rows: int, columns: int, kind: int
) -> None:
    """Add a tensor of random blocks."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = generator.integers(0, 256, (rows, columns // elements, size), dtype=np.uint8)
    for place in SCALES[kind]:
        blocks[..., place : place + 2] = np.frombuffer(np.float16(1e-3).tobytes(), np.uint8)
    writer.add_tensor(name, blocks.reshape(rows, -1), raw_dtype=kind)


def add_vocabulary(writer: gguf.GGUFWriter) -> None:
    """Add a byte-level vocabulary in which every token is merged from two."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters, special = list(bytes_to_unicode().values()), 300
    pairs = [a + b for a, b in itertools.product(letters, letters)]
    triples = (pair + letter for letter, pair in itertools.product(letters, pairs))
    words = [*letters, *pairs, *itertools.islice(triples, VOCABULARY - special - len(letters) - len(pairs))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*words, *(f"<|special{index}|>" for index in range(special))])
    writer.add_token_types([1] * len(words) + [3] * special)
    writer.add_token_merges([f"{word[:-1]} {word[-1]}" for word in words[len(letters) :]])
    writer.add_eos_token_id(VOCABULARY - 1)


def main() -> int:
    """Measure; return 1 where a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch, prefix="edgellm-bench-") as scratch:
        file, cache = Path(scratch) / "model.gguf", Path(scratch) / "cache"
        write_random_gguf(file)
        commands = {
            "bytes (`cat`)": ["sh", "-c", f"cat '{file}' > /dev/null"],
            "gguf package, tensors dequantized": [sys.executable, "-c", DEQUANTIZE, file],
            "gguf package, its own header reader too": [sys.executable, "-c", READ, file],
            "edgellm, checkpoint written and compared": [sys.executable, "-c", CONVERT, file],
        }
        runs: dict[str, list[Run]] = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, command in commands.items():
                runs[name].append(measure(command, {"EDGELLM_CACHE": str(cache)}))
                shutil.rmtree(cache, ignore_errors=True)
    found = {name: median_run(taken) for name, taken in runs.items()}
    reading, ours = list(found.values())[1], list(found.values())[-1]
    rows = [
        [
            name,
            f"{run.seconds:.1f}",
            f"{run.seconds / reading.seconds:.2f}",
            f"{run.cpu_seconds:.1f}",
            f"{run.peak_mb:.0f}",
        ]
        for name, run in found.items()
    ]
    print("\n".join(table(["reading", "seconds", "ratio", "CPU s", "peak RSS, MB"], rows)))
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores")
    return 0 if ours.seconds <= BOUND * reading.seconds and ours.peak_mb <= BOUND_MB else 1


if __name__ == "__main__":
    sys.exit(main())
