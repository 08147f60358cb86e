"""Runs a graph that is held in memory, with any of its tensors as further outputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.checkpoint.machine import available_memory
from edgellm_core.errors import one_line
from edgellm_core.runtime.errors import GraphLoadError, GraphRunError
from edgellm_core.runtime.prefill import split_steps, step_size
from edgellm_core.runtime.session import STATE_TYPES, read_small_tensors, state_output, state_value

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnx

    from edgellm_core.verification.cases import Logits, StepInputs

LOW_BIT_TYPES: Final = frozenset({3, 17, 21, 22, 23})
"""``onnx.TensorProto.DataType`` of packed weights: INT8, FLOAT8E4M3FN, UINT4, INT4, FLOAT4E2M1."""

FOLDING_BYTES: Final = {False: 8, True: 26}
"""Whether the graph is expanded → bytes for each low-bit element that ONNX Runtime takes while it dequantizes weights
once, before the first step. Done in each step it takes next to none and ten times the time: SmolLM2-135M in nvfp4 takes
0.3 s a token and 2.7 GB, or 3 s and 0.3 GB."""

Tensors = dict[str, np.ndarray[Any, Any]]


class GraphSession:
    """A graph of target ``onnx`` in ONNX Runtime on the CPU, which keeps the states of the case that it runs.

    ``runtime.DecoderSession`` loads a file and shows only its outputs; the gate also runs graphs that are cut or show
    their hidden states, whose weights stay in the original's data file.
    """

    def __init__(
        self, model: onnx.ModelProto, folder: Path, *, extra: Sequence[str] = (), widened: bool = False
    ) -> None:
        """Load the graph.

        Args:
            model: the graph; not changed. A bfloat16 graph runs with its types raised to float32.
            folder: where its external data lies.
            extra: names of further tensors to show.
            widened: run a float16 graph with its types raised to float32 too.

        Raises:
            GraphLoadError: ONNX Runtime can't load it.
        """
        self._path = folder / "model.onnx"
        self._extra = list(extra)
        try:
            self._session = load_graph(model, folder, self._extra, widened=widened)
        except Exception as error:  # the exceptions of ONNX Runtime and protobuf share no base but Exception
            raise GraphLoadError(self._path, one_line(error)) from error
        self._inputs = {value.name: value for value in self._session.get_inputs()}
        self._step_size = step_size(self._inputs["input_ids"].shape)
        self._state_names = [name for name in self._inputs if name.startswith("past_")]
        self._states: dict[str, Any] = {}

    def start(self, batch: int) -> None:
        """Forget the states: empty along the axis that grows, zeros elsewhere."""
        self._states = {}
        for name in self._state_names:
            value = self._inputs[name]
            _, *sizes = value.shape
            shape = [batch, *(size if isinstance(size, int) else 0 for size in sizes)]
            self._states[name] = state_value(np.zeros(shape, STATE_TYPES[value.type]), value.type)

    def run(self, inputs: StepInputs) -> tuple[Logits, Tensors]:
        """Run one step; where the graph takes one token a step, as many steps as there are tokens.

        Returns:
            float32 logits [batch, seq, vocab], and the extra tensors by name, in float32.

        Raises:
            GraphRunError: ONNX Runtime stopped.
        """
        names = ("input_ids", "attention_mask", "position_ids")
        given = split_steps(inputs.input_ids, inputs.attention_mask, inputs.position_ids, self._step_size)
        steps = [self._step(dict(zip(names, step, strict=True))) for step in given]
        if len(steps) == 1:
            return steps[0]
        extra = {name: np.concatenate([shown[name] for _, shown in steps], axis=1) for name in self._extra}
        return np.concatenate([logits for logits, _ in steps], axis=1), extra

    def _step(self, inputs: Tensors) -> tuple[Logits, Tensors]:
        import onnxruntime

        arrays = {
            **inputs,
            **self._states,
        }
        feeds = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value))
            if isinstance(value, np.ndarray)
            else value
            for name, value in arrays.items()
            if name in self._inputs
        }
        names = ["logits", *map(state_output, self._state_names), *self._extra]
        try:
            results = self._session.run_with_ort_values(names, feeds)
        except Exception as error:  # the exceptions of ONNX Runtime share no base but Exception
            raise GraphRunError(self._path, one_line(error)) from error
        logits, states, shown = results[0], results[1 : 1 + len(self._states)], results[1 + len(self._states) :]
        self._states = dict(zip(self._state_names, states, strict=True))
        extra = {name: _as_float32(value) for name, value in zip(self._extra, shown, strict=True)}
        return _as_float32(logits), extra


def _as_float32(value: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    array: np.ndarray[Any, np.dtype[np.float32]] = value.numpy().astype(np.float32, copy=False)
    return array


def load_graph(model: onnx.ModelProto, folder: Path, extra: Sequence[str], *, widened: bool) -> Any:
    """Return an ONNX Runtime session of a graph in memory; see :class:`GraphSession`."""
    import onnx
    import onnxruntime

    from edgellm_core.runtime.float32_twin import FLOAT16, has_bfloat16, raise_to_float32
    from edgellm_core.runtime.plain_operators import expand, needs_expansion
    from edgellm_core.runtime.quantized import FLOAT32_INPUTS

    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    if has_bfloat16(graph):
        raise_to_float32(graph)
    if widened:
        raise_to_float32(graph, FLOAT16)
    expanded = needs_expansion(graph)
    if expanded:
        expand(graph)
    read_small_tensors(graph, folder)
    present = {output.name for output in graph.graph.output}
    # ONNX Runtime infers the types of outputs that are declared without one
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra if name not in present)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: ONNX Runtime warns about optimizations that it declines
    options.enable_cpu_mem_arena = False  # the arena keeps what the longest prompt took
    # 512 tokens of SmolLM2-135M on two busy cores: 3.3 s with threads that wait asleep, 5.2 s with spinning ones
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry(*FLOAT32_INPUTS)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    disabled = []
    if widened and _low_bit_elements(model) * FOLDING_BYTES[expanded] <= available_memory() * 3 // 4:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    elif widened:
        disabled.append("ConstantFolding")
    return onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
    )


def _low_bit_elements(model: onnx.ModelProto) -> int:
    """Return the number of elements of initializers that are dequantized."""
    return sum(math.prod(tensor.dims) for tensor in model.graph.initializer if tensor.data_type in LOW_BIT_TYPES)
