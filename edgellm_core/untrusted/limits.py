"""How large things from outside may be. Each limit is checked before the work that it bounds.

The limits are a multiple of the largest real files that are known: config.json 0.3 MB, an index of shards 15 MB (384
experts in 61 layers), tokenizer.json 34 MB (262,144 tokens), tokenizer_config.json 1.2 MB, a header of one safetensors
file 2 MB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIB: Final = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """One limit.

    Attributes:
        what: what is limited, as errors call it.
        most: largest number that is accepted.
        unit: of the number.
        bounds: what the limit bounds.
    """

    what: str
    most: int
    unit: str
    bounds: str

    def shown(self, number: int | None = None) -> str:
        """Return the limit, or a number in its unit, in words."""
        number = self.most if number is None else number
        if self.unit == "bytes" and number >= MIB:
            return f"{number / MIB:.4g} MiB"
        return f"{number:,} {self.unit}"


JSON_FILE: Final = Limit(
    what="a JSON file of settings", most=16 * MIB, unit="bytes", bounds="memory: JSON takes up to 30 times its size"
)
OWN_FILE: Final = Limit(
    what="a JSON file that edgellm writes (bundle.json, a trace, a record of stages)",
    most=64 * MIB,
    unit="bytes",
    bounds="memory",
)
INDEX: Final = Limit(what="an index of shards", most=64 * MIB, unit="bytes", bounds="memory")
TOKENIZER: Final = Limit(what="a file of a tokenizer", most=128 * MIB, unit="bytes", bounds="memory")
DEPTH: Final = Limit(what="JSON", most=64, unit="levels of nesting", bounds="the stack")
DIGITS: Final = Limit(what="a whole number in JSON", most=40, unit="digits", bounds="time: quadratic in the digits")
TEXT_LINE: Final = Limit(what="a line of a .txt or .jsonl file", most=16 * MIB, unit="characters", bounds="memory")
SAFETENSORS_HEADER: Final = Limit(
    what="the header of a safetensors file", most=32 * MIB, unit="bytes", bounds="memory; about 300,000 tensors"
)
GGUF_KEYS: Final = Limit(what="the metadata of a GGUF file", most=65_536, unit="keys", bounds="time and memory")
GGUF_TENSORS: Final = Limit(what="a GGUF file", most=1_000_000, unit="tensors", bounds="time and memory")
GGUF_STRING: Final = Limit(what="a string in a GGUF file", most=16 * MIB, unit="bytes", bounds="memory")
TEMPLATE_STEPS: Final = Limit(what="a chat template", most=1_000_000, unit="steps", bounds="time: about 1 s")
TEMPLATE_VALUE: Final = Limit(
    what="a value in a chat template, and the chat itself", most=16_000_000, unit="characters", bounds="memory"
)
YAML_FILE: Final = Limit(what="a YAML file", most=MIB, unit="bytes", bounds="time: YAML is read at 0.3 MB/s")
YAML_NODES: Final = Limit(
    what="a YAML file", most=100_000, unit="entries with aliases written out", bounds="time and memory of aliases"
)
YAML_DEPTH: Final = Limit(what="YAML", most=64, unit="levels of nesting", bounds="the stack")

ALL: Final = (
    JSON_FILE, INDEX, TOKENIZER, OWN_FILE, DEPTH, DIGITS, TEXT_LINE, SAFETENSORS_HEADER, GGUF_KEYS, GGUF_TENSORS,
    GGUF_STRING, TEMPLATE_STEPS, TEMPLATE_VALUE, YAML_FILE, YAML_NODES, YAML_DEPTH,
)  # fmt: skip
"""Every limit, for the reference."""
