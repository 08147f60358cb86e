"""One graph of target ``edge-llm`` in ONNX Runtime on the CPU, fed as the runtime of TensorRT-Edge-LLM feeds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from edgellm_core.checkpoint.safetensors_header import read_header
from edgellm_core.errors import one_line
from edgellm_core.runtime.errors import CacheTypeError, GraphRunError
from edgellm_core.runtime.paged.functions import add_functions
from edgellm_core.runtime.paged.pages import PAGE_TOKENS, Pages
from edgellm_core.runtime.paged.rope import rope_of
from edgellm_core.runtime.session import FLOAT8, STATE_TYPES, load_decoder, state_value
from edgellm_core.untrusted import read_json_object

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

Array = np.ndarray[Any, Any]
Ids = np.ndarray[Any, np.dtype[np.int64]]
Logits = np.ndarray[Any, np.dtype[np.float32]]

PREFILL, CHUNK, DECODE = 1, 2, 3
"""Extents of ``execution_phase_marker``: prompts from the start, later parts of prompts, one token each."""

UNWRITTEN: Final = 60.0
"""What pages hold before they are written: a graph that reads them goes wrong visibly."""

UNWRITTEN_FLOAT8: Final = 0x7E
"""The same of pages in FLOAT8E4M3FN, as bits: 448, the largest number."""

PAST, PRESENT = "past_key_values_", "present_key_values_"
EMBEDS, ROPE = "inputs_embeds", "rope_rotary_cos_sin"
EMBEDDED: Final = "hidden_states.input"
"""What the gate calls the input of the first layer; here mostly the graph's input itself."""


class Inputs(Protocol):
    """Inputs of one step as target ``onnx`` has them; padding stands on the left."""

    @property
    def input_ids(self) -> Ids:
        """int64 [batch, seq]."""

    @property
    def attention_mask(self) -> Ids:
        """int64 [batch, past + seq]; 0 for padding."""

    @property
    def position_ids(self) -> Ids:
        """int64 [batch, seq]."""


@dataclass(frozen=True)
class Step:
    """Inputs of one step; see :class:`Inputs`."""

    input_ids: Ids
    attention_mask: Ids
    position_ids: Ids


@dataclass(frozen=True)
class GraphFiles:
    """What the runtime reads beside a graph.

    Attributes:
        path: the graph.
        table: embeddings float16 ``[vocab, hidden]``.
        cos_sin: from positions ``[tokens]`` to float32 ``[tokens, rotary_dim]``: cosines, then sines.
        cache: what is said of the type of the KV cache, ``fp16`` or ``fp8``.
    """

    path: Path
    table: Array
    cos_sin: Callable[[Array], Array]
    cache: str = "fp16"


def read_files(folder: Path) -> GraphFiles:
    """Read ``embedding.safetensors`` and ``config.json``.

    Each step has the table of an engine whose KV cache just holds it, so LongRoPE's is that of the text's length.
    """
    config = read_json_object(folder / "config.json")

    def cos_sin(positions: Array) -> Array:
        return rope_of(config, capacity=int(positions.max()) + 1).cos_sin(positions)

    table = read_table(folder / "embedding.safetensors")
    return GraphFiles(folder / "model.onnx", table, cos_sin, cache=str(config["kv_cache_dtype"]))


class PagedGraph:
    """A graph that keeps the KV pages of the sequences that it runs.

    Padding is left out: the tokens of all sequences stand one after the other.
    """

    def __init__(self, session: Any, files: GraphFiles, *, extra: Sequence[str] = ()) -> None:
        """Start with one empty sequence.

        Args:
            session: the graph in ONNX Runtime, its plugins written as functions.
            files: what lies beside it.
            extra: names of further tensors that it shows.

        Raises:
            CacheTypeError: config.json says another type of cache, which the runtime refuses too.
        """
        self._files = files
        self._outputs = [value.name for value in session.get_outputs()]
        self._shown = [name for name in extra if name in self._outputs or name == EMBEDDED]
        self._session = session
        inputs = session.get_inputs()
        self._pools = {value.name: (value.type, value.shape) for value in inputs if value.name.startswith(PAST)}
        self._require_stated_type()
        self._wanted = {value.name for value in inputs}
        self._dtype = next((STATE_TYPES[value.type] for value in inputs if value.name == EMBEDS), np.float32)
        self.start(1)

    def _require_stated_type(self) -> None:
        found = sorted({"fp8" if kind in FLOAT8 else "fp16" for kind, _ in self._pools.values()})
        if found and found != [self._files.cache]:
            raise CacheTypeError(self._files.path, self._files.cache, found)

    def start(self, batch: int) -> None:
        """Forget everything; ``batch`` sequences follow."""
        self._pages = Pages(batch)
        self._lengths = [0] * batch
        self._pool: dict[str, Any] = {}

    def run(self, inputs: Inputs) -> tuple[Logits, dict[str, Array]]:
        """Run one step.

        Returns:
            float32 logits [batch, seq, vocab], zero at padding, and the extra tensors by name; see :meth:`in_batch`.

        Raises:
            GraphRunError: ONNX Runtime stopped.
        """
        results = self.step(inputs, {})
        shown = {name: self.in_batch(results[name], inputs) for name in self._shown}
        return self.in_batch(results["logits"], inputs), shown

    def step(self, inputs: Inputs, carried: Mapping[str, Any]) -> dict[str, Any]:
        """Run one step.

        Args:
            inputs: tokens of all sequences.
            carried: ``OrtValue`` that earlier parts of the graph computed in this step, by name.

        Returns:
            All outputs as ``OrtValue``, and the embeddings as the input of the first layer.

        Raises:
            GraphRunError: ONNX Runtime stopped.
        """
        import onnxruntime

        real = _real(inputs)
        counts = real.sum(axis=1)
        past = list(self._lengths)
        self._lengths = [length + int(count) for length, count in zip(past, counts, strict=True)]
        self._pages.reserve(self._lengths)
        self._grow_pools()
        embeds: Array = self._files.table[inputs.input_ids[real]].astype(self._dtype, copy=False)
        arrays = {EMBEDS: embeds, **self._described(counts, past, inputs.position_ids[real])}
        feeds = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
            for name, array in arrays.items()
            if name in self._wanted
        }
        feeds |= self._pool | {name: value for name, value in carried.items() if name in self._wanted}
        try:
            results = dict(zip(self._outputs, self._session.run_with_ort_values(self._outputs, feeds), strict=True))
        except Exception as error:  # the exceptions of ONNX Runtime share no base but Exception
            raise GraphRunError(self._files.path, one_line(error)) from error
        self._pool = {name: results[name.replace(PAST, PRESENT)] for name in self._pools}
        results.setdefault(EMBEDDED, onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(embeds)))
        return results

    def in_batch(self, value: Any, inputs: Inputs) -> Logits:
        """Return an output ``[tokens, …]`` of a step in float32, with the axes that target ``onnx`` gives it.

        They are [batch, seq, …], zero at padding, or [batch, heads, seq, size].
        """
        return _by_batch(value.numpy(), _real(inputs))

    def _described(self, counts: Array, past: list[int], positions: Ids) -> dict[str, Array]:
        """Return what the runtime says about the tokens of a step; logits are asked of all of them."""
        active = np.flatnonzero(counts)
        counts, before = counts[active], np.array(past)[active]
        first, one = not before.any(), bool((counts == 1).all())
        phase = PREFILL if first else DECODE if one else CHUNK
        offsets = np.concatenate([[0], np.cumsum(counts)])
        return {
            ROPE: self._files.cos_sin(positions),
            "positions": positions.astype(np.int32),
            "query_start_offsets": offsets.astype(np.int32),
            "query_lengths": counts.astype(np.int32),
            "past_lengths": before.astype(np.int32),
            "attention_sequence_lengths": (before + counts).astype(np.int32),
            "state_indices": active.astype(np.int32),
            "execution_phase_marker": np.zeros(phase, np.int32),
            "context_sequence_count_carrier": np.zeros(0 if phase == DECODE else len(active), np.int32),
            "kv_page_table": self._pages.table()[active],
            "logits_indices": np.arange(int(counts.sum()), dtype=np.int64),
        }

    def _grow_pools(self) -> None:
        """Give every layer as many pages as there are."""
        for name, (kind, (*_, heads, size)) in self._pools.items():
            old = self._pool[name].numpy() if name in self._pool else None
            if old is not None and old.shape[1] == self._pages.count:
                continue
            unwritten = UNWRITTEN_FLOAT8 if kind in FLOAT8 else UNWRITTEN
            pool = np.full((2, self._pages.count, PAGE_TOKENS, heads, size), unwritten, STATE_TYPES[kind])
            if old is not None:
                pool[:, : old.shape[1]] = old
            self._pool[name] = state_value(pool, kind)


class PagedSession:
    """The same graph for one file and :func:`~edgellm_core.runtime.generate.generate`.

    Attributes:
        vocab_size: rows of the embedding.
    """

    def __init__(self, model_path: Path, *, threads: int | None = None) -> None:
        """Load a graph from its file.

        Raises:
            GraphLoadError: ONNX Runtime can't load it.
            PluginAttributeError: a plugin does what has no reference on the CPU.
        """
        session, _ = load_decoder(model_path, threads, add_functions)
        files = read_files(model_path.parent)
        self.vocab_size: int | None = files.table.shape[0]
        self._graph = PagedGraph(session, files)

    def initial_states(self, batch: int) -> dict[str, Any]:
        """Forget everything; the graph keeps its pages itself."""
        self._graph.start(batch)
        return {}

    def run(self, input_ids: Ids, attention_mask: Ids, position_ids: Ids, states: Any) -> tuple[Logits, dict[str, Any]]:
        """Run one step; return float32 logits [batch, seq, vocab], and nothing to pass on."""
        del states
        return self._graph.run(Step(input_ids, attention_mask, position_ids))[0], {}


def _real(inputs: Inputs) -> Array:
    """Return boolean [batch, seq]: tokens, not padding."""
    real: Array = inputs.attention_mask[:, -inputs.input_ids.shape[1] :].astype(bool)
    return real


def _padded(values: Array, real: Array) -> Logits:
    """Return ``[tokens, …]`` as float32 ``[batch, seq, …]``, zero at padding."""
    whole = np.zeros((*real.shape, *values.shape[1:]), np.float32)
    whole[real] = values
    return whole


def _by_batch(values: Array, real: Array) -> Logits:
    """Return ``[tokens, …]`` as float32 ``[batch, seq, …]``; heads ``[tokens, heads, size]`` get seq behind them."""
    whole = _padded(values, real)
    return whole.swapaxes(1, 2) if whole.ndim == 4 else whole


def read_table(path: Path) -> Array:
    """Return the embedding table float16 ``[vocab, hidden]`` of a file without reading it."""
    entry = read_header(path).tensors["embedding"]
    return np.memmap(entry.file, np.float16, "r", offset=entry.offset, shape=entry.shape)
