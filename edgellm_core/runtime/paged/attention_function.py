"""``trt_edgellm::AttentionPlugin`` as an ONNX function of standard operators, written from its contract alone.

All tokens of all sequences stand in one list. The plugin normalises and rotates new queries and keys, writes new keys
and values into the pages that ``kv_page_table`` names, and lets each token attend to the tokens of its own sequence at
or before itself, at most ``sliding_window_size`` of them. Numbers are float32 inside; what is stored is float16.

A pool in fp8 (``enable_fp8_kv_cache``) holds ``E4M3(x / scale)`` and stands for ``stored · scale``. The contract says
that ``qkv_scales`` are the numbers that dequantize queries, keys and values, and that the pool is FLOAT8E4M3FN. Our
reading: rounding is to nearest even and saturates, as CUDA's conversion and ONNX's ``QuantizeLinear`` do; all tokens,
those of the same step too, are attended to as they are stored; and queries are not rounded. Kernels for prompts differ
in the last two: those of SM 100 to 110 round queries to E4M3 with the first scale, others take the keys and values of a
first prompt before they are rounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgellm_core.runtime.errors import PluginAttributeError
from edgellm_core.runtime.paged.function_body import FLOAT, FLOAT8, FLOAT16, INT64, FunctionBody

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

PAGE_TOKENS: Final = 128

LOWEST: Final = -3.0e38
"""Logit of a key that a token does not see."""

BEFORE: Final = ("qkv", "pool", "query_lengths", "rope", "past_lengths", "page_table")
AFTER: Final = ("query_start_offsets", "sequence_lengths", "phase", "context_count")

ROUNDED: Final = ("keys", "values")
"""What a function over a pool in fp8 returns besides: new keys and values as they are stored, ``[tokens, kv_heads,
size]``."""


def attention_function(name: str, attributes: Mapping[str, Any]) -> onnx.FunctionProto:
    """Return the function of a node with these attributes.

    Raises:
        PluginAttributeError: an attribute asks for what target ``edge-llm`` never writes.
    """
    for flag in _NEVER:
        if attributes[flag]:
            raise PluginAttributeError(flag)
    optional = ["q_gamma", "k_gamma"] if attributes["enable_qk_norm"] else []
    optional += ["sinks"] if attributes["enable_attention_sink"] else []
    body = _Body(attributes)
    body.write()
    rounded = ROUNDED if attributes["enable_fp8_kv_cache"] else ()
    return body.function(name, [*BEFORE, *optional, *AFTER], ["attended", "present", *rounded])


_NEVER: Final = (
    "enable_tree_attention", "enable_context_mask_selector", "enable_vision_block_attention", "enable_kv_shared",
    "enable_contiguous_query_swa",
)  # fmt: skip


class _Body(FunctionBody):
    """Writes the nodes of the function."""

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        super().__init__()
        self.attributes = attributes
        self.scales = attributes["qkv_scales"][1:] if attributes["enable_fp8_kv_cache"] else None

    def write(self) -> None:
        """Write everything."""
        heads, kv_heads = int(self.attributes["num_q_heads"]), int(self.attributes["num_kv_heads"])
        size = int(self.attributes["head_size"])
        query, key, value = (
            self._heads(start, count, size)
            for start, count in ((0, heads), (heads, kv_heads), (heads + kv_heads, kv_heads))
        )
        query, key = self._prepared(query, "q_gamma"), self._prepared(key, "k_gamma")
        sequence, position = self._places()
        pool = self._written(key, value, sequence, position, kv_heads, size)
        self._attend(query, pool, sequence, position)

    def _heads(self, start: int, count: int, size: int) -> str:
        """Return ``count`` heads from head ``start`` on, ``[tokens, count, size]``."""
        channels = self.ints(start * size), self.ints((start + count) * size), self.ints(1)
        return self.op("Reshape", self.op("Slice", "qkv", *channels), self.ints(0, count, size))

    def _prepared(self, x: str, gamma: str) -> str:
        """Return queries or keys, normalised and rotated, float16 ``[tokens, heads, size]``."""
        x = self.op("Cast", x, to=FLOAT)
        normalises = bool(self.attributes["enable_qk_norm"])
        after = bool(self.attributes["qk_norm_post_rope"])
        if normalises and not after:
            x = self._normalised(x, gamma)
        x = self._rotated(x)
        if normalises and after:
            x = self._normalised(x, gamma)
        return self.op("Cast", x, to=FLOAT16)

    def _normalised(self, x: str, gamma: str) -> str:
        mean = self.op("ReduceMean", self.op("Mul", x, x), self.ints(-1))
        root = self.op("Sqrt", self.op("Add", mean, self.number(self.attributes["rms_norm_eps"])))
        return self.op("Mul", self.op("Div", x, root), self.op("Cast", gamma, to=FLOAT))

    def _rotated(self, x: str) -> str:
        """Turn the pairs (i, i + rotary_dim / 2) of the first rotary_dim channels; the rest stays."""
        width = self.op("Shape", "rope", start=1, end=2)
        half = self.op("Div", width, self.ints(2))
        zero, last = self.ints(0), self.ints(-1)
        cos, sin = (
            self.op("Unsqueeze", self.op("Slice", "rope", start, end, last), self.ints(1))
            for start, end in ((zero, half), (half, width))
        )
        first = self.op("Slice", x, zero, half, last)
        second = self.op("Slice", x, half, width, last)
        rest = self.op("Slice", x, width, self.ints(2**31 - 1), last)
        turned_first = self.op("Sub", self.op("Mul", first, cos), self.op("Mul", second, sin))
        turned_second = self.op("Add", self.op("Mul", second, cos), self.op("Mul", first, sin))
        return self.op("Concat", turned_first, turned_second, rest, axis=-1)

    def _places(self) -> tuple[str, str]:
        """Return the sequence of each token, and its position in it, both int64 ``[tokens]``."""
        offsets = self.op("Cast", "query_start_offsets", to=INT64)
        count = self.op("Squeeze", self.op("Shape", "qkv", start=0, end=1))
        token = self.op("Range", self.integer(0), count, self.integer(1))
        ends = self.op("Slice", offsets, self.ints(1), self.ints(2**31 - 1), self.ints(0))
        over = self.op(
            "LessOrEqual", self.op("Unsqueeze", ends, self.ints(0)), self.op("Unsqueeze", token, self.ints(1))
        )
        sequence = self.op("ReduceSum", self.op("Cast", over, to=INT64), self.ints(1), keepdims=0)
        past = self.op("Gather", self.op("Cast", "past_lengths", to=INT64), sequence)
        inside = self.op("Sub", token, self.op("Gather", offsets, sequence))
        return sequence, self.op("Add", past, inside)

    def _written(self, key: str, value: str, sequence: str, position: str, kv_heads: int, size: int) -> str:
        """Write new keys and values; return the pool as ``[slots, kv_heads, size]``, numbers of E4M3 as float32."""
        pool = self.op("Cast", "pool", to=FLOAT) if self.scales else "pool"
        flat = self.op("Reshape", pool, self.ints(-1, kv_heads, size))
        for plane, new in ((0, key), (1, value)):
            stored = self._rounded(new, self.scales[plane], ROUNDED[plane]) if self.scales else new
            slots = self._slots(plane, sequence, position)
            flat = self.op("ScatterND", flat, self.op("Unsqueeze", slots, self.ints(1)), stored)
        shape = self.op("Shape", "pool")
        if self.scales:
            self.op("Cast", self.op("Reshape", flat, shape), to=FLOAT8, out="present")
        else:
            self.op("Reshape", flat, shape, out="present")
        return flat

    def _rounded(self, new: str, scale: float, out: str) -> str:
        """Return new keys or values as numbers of E4M3, in float32; ``out`` gets what they stand for."""
        factor = self.number(scale)
        rounded = self.op("QuantizeLinear", self.op("Cast", new, to=FLOAT), factor, output_dtype=FLOAT8)
        stored = self.op("Cast", rounded, to=FLOAT)
        self.op("Mul", stored, factor, out=out)
        return stored

    def _slots(self, plane: int, sequence: str, position: str) -> str:
        """Return the slot of a position of a sequence, in a pool whose pages of both planes are counted through."""
        size = self.integer(PAGE_TOKENS)
        page = self.op("Div", position, size)
        planes = self.op("Expand", self.integer(plane), self.op("Shape", page))
        index = self.op(
            "Concat", *(self.op("Unsqueeze", one, self.ints(1)) for one in (sequence, planes, page)), axis=1
        )
        table = self.op("Cast", "page_table", to=INT64)
        return self.op("Add", self.op("Mul", self.op("GatherND", table, index), size), self.op("Mod", position, size))

    def _attend(self, query: str, pool: str, sequence: str, position: str) -> None:
        """Attend over the slots of all sequences; a token sees those of its own."""
        of_key, at = self._all_places()
        keys, values = (self._read(pool, plane, self._slots(plane, of_key, at)) for plane in (0, 1))
        logits = self._logits(query, keys)
        seen = self._seen(sequence, position, of_key, at)
        masked = self.op("Where", seen, logits, self.number(LOWEST))
        weights = self._softmax(masked)
        kv_heads, size = int(self.attributes["num_kv_heads"]), int(self.attributes["head_size"])
        heads = int(self.attributes["num_q_heads"])
        # [kv_heads, tokens * group, slots] · [kv_heads, slots, size]
        turned = self.op("Transpose", values, perm=[1, 0, 2])
        product = self.op("MatMul", weights, turned)
        split = self.op("Reshape", product, self.ints(kv_heads, -1, heads // kv_heads, size))
        joined = self.op("Reshape", self.op("Transpose", split, perm=[1, 0, 2, 3]), self.ints(-1, heads, size))
        self.op("Cast", joined, to=FLOAT16, out="attended")

    def _read(self, pool: str, plane: int, slots: str) -> str:
        """Return the keys or values of slots in float32, ``[slots, kv_heads, size]``."""
        stored = self.op("Cast", self.op("Gather", pool, slots), to=FLOAT)
        return self.op("Mul", stored, self.number(self.scales[plane])) if self.scales else stored

    def _all_places(self) -> tuple[str, str]:
        """Return sequence and position of every slot that the page table names, sequence by sequence."""
        shape = self.op("Shape", "page_table")
        count = self.op("Squeeze", self.op("Slice", shape, self.ints(0), self.ints(1)))
        pages = self.op("Squeeze", self.op("Slice", shape, self.ints(2), self.ints(3)))
        slots = self.op("Mul", pages, self.integer(PAGE_TOKENS))
        every = self.op("Range", self.integer(0), self.op("Mul", count, slots), self.integer(1))
        return self.op("Div", every, slots), self.op("Mod", every, slots)

    def _logits(self, query: str, keys: str) -> str:
        """Return ``[kv_heads, tokens * group, slots]``: heads that share keys stand together."""
        heads, kv_heads = int(self.attributes["num_q_heads"]), int(self.attributes["num_kv_heads"])
        size, group = int(self.attributes["head_size"]), heads // kv_heads
        wide = self.op("Reshape", self.op("Cast", query, to=FLOAT), self.ints(-1, kv_heads, group, size))
        grouped = self.op("Reshape", self.op("Transpose", wide, perm=[1, 0, 2, 3]), self.ints(kv_heads, -1, size))
        product = self.op("MatMul", grouped, self.op("Transpose", keys, perm=[1, 2, 0]))
        return self.op("Mul", product, self.number(self.attributes["attention_scale"]))

    def _seen(self, sequence: str, position: str, of_key: str, at: str) -> str:
        """Return which slots a token sees, ``[tokens * group, slots]``."""
        column = self.ints(1)
        own = self.op("Equal", self.op("Unsqueeze", sequence, column), of_key)
        where = self.op("Unsqueeze", position, column)
        seen = self.op("And", own, self.op("LessOrEqual", at, where))
        window = int(self.attributes["sliding_window_size"])
        if window >= 0:
            seen = self.op("And", seen, self.op("Greater", at, self.op("Sub", where, self.integer(window))))
        lengths = self.op("Gather", self.op("Cast", "sequence_lengths", to=INT64), of_key)
        seen = self.op("And", seen, self.op("Less", at, lengths))
        group = int(self.attributes["num_q_heads"]) // int(self.attributes["num_kv_heads"])
        spread = self.op("Tile", self.op("Unsqueeze", seen, column), self.ints(1, group, 1))
        slots = self.op("Shape", of_key)
        return self.op("Reshape", spread, self.op("Concat", self.ints(-1), slots, axis=0))

    def _softmax(self, logits: str) -> str:
        if not self.attributes["enable_attention_sink"]:
            return self.op("Softmax", logits, axis=-1)
        heads, kv_heads = int(self.attributes["num_q_heads"]), int(self.attributes["num_kv_heads"])
        group = heads // kv_heads
        # rows are token by token, the heads of a group within each
        sinks = self.op("Reshape", self.op("Cast", "sinks", to=FLOAT), self.ints(kv_heads, 1, group))
        tokens = self.op("Shape", "qkv", start=0, end=1)
        repeated = self.op("Tile", sinks, self.op("Concat", self.ints(1), tokens, self.ints(1), axis=0))
        last = self.op("Reshape", repeated, self.ints(kv_heads, -1, 1))
        whole = self.op("Softmax", self.op("Concat", logits, last, axis=-1), axis=-1)
        return self.op("Slice", whole, self.ints(0), self.ints(-1), self.ints(-1))
