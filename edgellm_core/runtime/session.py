"""One graph of target ``onnx`` loaded into ONNX Runtime on the CPU, with its states handled by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.errors import one_line
from edgellm_core.runtime.errors import GraphContractError, GraphLoadError, GraphRunError
from edgellm_core.runtime.prefill import split_steps, step_size

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

STATE_TYPES: Final = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(float8e4m3fn)": np.uint8,
}
"""ONNX Runtime's name of a state's element type → numpy's; float8, which numpy lacks, as its bits."""

FLOAT8: Final = {"tensor(float8e4m3fn)": 17}
"""ONNX Runtime's name of element types that arrays hold the bits of → ``onnx.TensorProto``'s number."""

INLINE_BYTES: Final = 4096
"""External tensors up to this size are read into the graph where it is loaded from memory: shape inference needs the
values of shape constants then and does not find them in files."""

States = Mapping[str, Any]
"""Input name → ``numpy.ndarray`` or ``onnxruntime.OrtValue`` (which has ``.numpy()``)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _State:
    """One input that a step's output feeds.

    Attributes:
        name: graph input, ``past_…``.
        output: graph output with its next value.
        dtype: numpy type.
        type_name: ONNX Runtime's name of the element type.
        shape: static sizes; None for the batch; 0 for the axis that grows.
    """

    name: str
    output: str
    dtype: Any
    shape: tuple[int | None, ...]
    type_name: str

    def as_value(self, state: Any) -> Any:
        """Return an array as ONNX Runtime's value; its values are passed on."""
        return state_value(state, self.type_name) if isinstance(state, np.ndarray) else state


def state_value(array: np.ndarray[Any, Any], type_name: str) -> Any:
    """Return an array as ONNX Runtime's value of the type that it names so."""
    import onnxruntime

    if type_name in FLOAT8:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, FLOAT8[type_name])
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


class DecoderSession:
    """Runs a decoder graph step by step.

    The caller passes the states of one call to the next; they stay in ONNX Runtime's memory between calls.

    Attributes:
        raised_to_float32: True where the graph is bfloat16 and its float32 twin runs (see ``float32_twin.py``).
        vocab_size: ids are below it; None where the graph does not say.
        state_names: graph inputs that carry state, in graph order.
    """

    def __init__(self, model_path: Path, *, threads: int | None = None) -> None:
        """Load the graph.

        Args:
            model_path: the ONNX file; external data beside it.
            threads: threads of ONNX Runtime; None for one per core.

        Raises:
            GraphLoadError: ONNX Runtime can't load it.
            GraphContractError: inputs or outputs are not those of target ``onnx``.
        """
        self._path = model_path
        self._session, self.raised_to_float32 = load_decoder(model_path, threads)
        self._inputs = {value.name: value.shape for value in self._session.get_inputs()}
        outputs = {value.name: value.shape for value in self._session.get_outputs()}
        for required, names in (("input_ids", self._inputs), ("logits", outputs)):
            if required not in names:
                raise GraphContractError(model_path, f"it has no {required!r}")
        self._step_size = step_size(self._inputs["input_ids"])
        rows = outputs["logits"][-1]
        self.vocab_size: int | None = rows if isinstance(rows, int) else None
        self._states = self._find_states(set(outputs))
        self._outputs = ["logits", *(state.output for state in self._states)]

    @property
    def state_names(self) -> list[str]:
        """Graph inputs that carry state, in graph order."""
        return [state.name for state in self._states]

    def initial_states(self, batch: int) -> dict[str, np.ndarray[Any, Any]]:
        """Return the states before the first token: empty along the axis that grows, zeros elsewhere.

        Args:
            batch: number of sequences.
        """
        return {
            state.name: np.zeros([batch if size is None else size for size in state.shape], state.dtype)
            for state in self._states
        }

    def run(
        self,
        input_ids: np.ndarray[Any, Any],
        attention_mask: np.ndarray[Any, Any],
        position_ids: np.ndarray[Any, Any],
        states: States,
    ) -> tuple[np.ndarray[Any, np.dtype[np.float32]], dict[str, Any]]:
        """Run one step; where the graph takes one token a step, as many steps as there are tokens.

        Args:
            input_ids: int64 [batch, seq].
            attention_mask: int64 [batch, past + seq]; 1 for a token, 0 for left padding.
            position_ids: int64 [batch, seq].
            states: what :meth:`initial_states` or the last call returned.

        Returns:
            float32 logits [batch, seq, vocab], and the states for the next call as ``OrtValue``.
        """
        logits = []
        for inputs in split_steps(input_ids, attention_mask, position_ids, self._step_size):
            given = dict(zip(("input_ids", "attention_mask", "position_ids"), inputs, strict=True))
            found, states = self._step(given, states)
            logits.append(found)
        return logits[0] if len(logits) == 1 else np.concatenate(logits, axis=1), dict(states)

    def _step(
        self, inputs: Mapping[str, np.ndarray[Any, Any]], states: States
    ) -> tuple[np.ndarray[Any, np.dtype[np.float32]], dict[str, Any]]:
        import onnxruntime

        feeds = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array, np.int64))
            for name, array in inputs.items()
            if name in self._inputs
        }
        for state in self._states:
            feeds[state.name] = state.as_value(states[state.name])
        try:
            logits, *new = self._session.run_with_ort_values(self._outputs, feeds)
        except Exception as error:  # the exceptions of ONNX Runtime share no base but Exception
            raise GraphRunError(self._path, one_line(error)) from error
        names = (state.name for state in self._states)
        return logits.numpy().astype(np.float32, copy=False), dict(zip(names, new, strict=True))

    def _find_states(self, outputs: set[str]) -> list[_State]:
        states = []
        for value in self._session.get_inputs():
            if not value.name.startswith("past_"):
                continue
            output = state_output(value.name)
            if output not in outputs:
                raise GraphContractError(self._path, f"state {value.name!r} has no output {output!r}")
            if value.type not in STATE_TYPES:
                raise GraphContractError(self._path, f"state {value.name!r} has the type {value.type}")
            batch, *rest = value.shape
            grown = [size if isinstance(size, int) else 0 for size in rest]
            shape = (batch if isinstance(batch, int) else None, *grown)
            dtype = STATE_TYPES[value.type]
            states.append(_State(name=value.name, output=output, dtype=dtype, shape=shape, type_name=value.type))
        return states


def state_output(name: str) -> str:
    """Return the output that holds the next value of a state.

    ``past_key_values.3.key`` → ``present.3.key``; ``past_state.3.conv`` → ``present_state.3.conv``.
    """
    if name.startswith("past_key_values."):
        return name.replace("past_key_values.", "present.", 1)
    return name.replace("past_", "present_", 1)


def load_decoder(
    path: Path, threads: int | None, prepare: Callable[[onnx.ModelProto], None] | None = None
) -> tuple[Any, bool]:
    """Load a graph's file.

    Args:
        path: the ONNX file; external data beside it.
        threads: threads of ONNX Runtime; None for one per core.
        prepare: rewrites operators that ONNX Runtime does not know.

    Returns:
        The session, and whether the graph was raised to float32.

    Raises:
        GraphLoadError: ONNX Runtime can't load it.
    """
    import onnxruntime
    from onnx import load

    from edgellm_core.runtime.float32_twin import has_bfloat16, raise_to_float32
    from edgellm_core.runtime.plain_operators import expand, needs_expansion
    from edgellm_core.runtime.quantized import session_settings

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: ONNX Runtime warns about optimizations that it declines
    # a prompt of 700 tokens left 377 MiB resident without the arena, 638 with it; equally fast (30 layers, width 576)
    options.enable_cpu_mem_arena = False
    # threads that wait for work asleep took 62 ms of CPU a token, spinning ones 103, and lost no time on 2 busy cores
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = threads or 0
    source: str | bytes = str(path)
    try:
        model = load(str(path), load_external_data=False)
        for name, setting in session_settings(model):
            options.add_session_config_entry(name, setting)
        raised, expanded = has_bfloat16(model), needs_expansion(model)
        if raised:
            raise_to_float32(model)
        if expanded:
            expand(model)
        if prepare:
            prepare(model)
        if raised or expanded or prepare:
            read_small_tensors(model, path.parent)
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
            source = model.SerializeToString()
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"]), raised
    except Exception as error:  # the exceptions of ONNX Runtime and protobuf share no base but Exception
        raise GraphLoadError(path, one_line(error)) from error


def read_small_tensors(model: onnx.ModelProto, folder: Path) -> None:
    """Move small external tensors into the graph: shape inference does not look for shape constants in files."""
    from onnx import TensorProto, external_data_helper

    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            lengths = [int(entry.value) for entry in tensor.external_data if entry.key == "length"]
            if lengths and lengths[0] <= INLINE_BYTES:
                external_data_helper.load_external_data_for_tensor(tensor, str(folder))
                tensor.data_location = TensorProto.DEFAULT
                del tensor.external_data[:]
