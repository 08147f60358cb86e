"""Runs a graph that is held in memory, or a part of one, with any of its tensors as further outputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.checkpoint.machine import available_memory
from edgellm_core.errors import one_line
from edgellm_core.runtime.errors import GraphLoadError, GraphRunError
from edgellm_core.runtime.plain_operators import CONSTANT
from edgellm_core.runtime.session import STATE_TYPES, read_small_tensors, state_output, state_value
from edgellm_core.verification.lent_weights import LendingSession, lend

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import onnx

    from edgellm_core.verification.cases import StepInputs

    Carried = Mapping[str, Any]
    """``OrtValue`` by the name of the tensor."""

LOW_BIT_TYPES: Final = frozenset({3, 17, 21, 22, 23})
"""``onnx.TensorProto.DataType`` of packed weights: INT8, FLOAT8E4M3FN, UINT4, INT4, FLOAT4E2M1."""

FOLDING_BYTES: Final = {False: 8, True: 26}
"""Whether the graph is expanded → bytes for each low-bit element that ONNX Runtime takes while it dequantizes weights
once, before the first step. Done in each step it takes next to none and ten times the time: SmolLM2-135M in nvfp4 takes
0.3 s a token and 2.7 GB, or 3 s and 0.3 GB."""

PACKED: Final = "/packed"
"""End of the name of an initializer that holds two numbers in a byte, see ``runtime/plain_operators.py``."""

STEP_INPUTS: Final = ("input_ids", "attention_mask", "position_ids")
"""Inputs of a graph of target ``onnx`` besides states."""

Tensors = dict[str, np.ndarray[Any, Any]]


def prepare_graph(model: onnx.ModelProto, folder: Path, *, widened: bool) -> onnx.ModelProto:
    """Return a copy of a graph that ONNX Runtime can load on the CPU.

    Args:
        model: the graph; not changed. A bfloat16 graph always gets its types raised to float32.
        folder: where its external data lies.
        widened: raise those of a float16 graph too.
    """
    import onnx

    from edgellm_core.runtime.float32_twin import FLOAT16, has_bfloat16, raise_to_float32
    from edgellm_core.runtime.plain_operators import expand, needs_expansion

    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    if has_bfloat16(graph):
        raise_to_float32(graph)
    if widened:
        raise_to_float32(graph, FLOAT16)
    if needs_expansion(graph):
        expand(graph)
    read_small_tensors(graph, folder)
    return graph


class GraphSession:
    """A graph of target ``onnx``, or a part of one, in ONNX Runtime on the CPU; it keeps the states of one case.

    ``runtime.DecoderSession`` loads a file and shows only its outputs; the gate also runs parts of graphs, whose
    weights stay in the bundle's data file.
    """

    @staticmethod
    def prepare(model: onnx.ModelProto, folder: Path, *, widened: bool) -> onnx.ModelProto:
        """Return a copy of a graph that this class can load; see :func:`prepare_graph`."""
        return prepare_graph(model, folder, widened=widened)

    def __init__(self, model: onnx.ModelProto, folder: Path, *, extra: Sequence[str] = ()) -> None:
        """Load a graph.

        Args:
            model: what ``prepare`` returned, or a part of it.
            folder: where its external data lies.
            extra: names of further tensors to show.

        Raises:
            GraphLoadError: ONNX Runtime can't load it.
        """
        self._path = folder / "model.onnx"
        try:
            self._session = open_graph(model, folder, extra)
        except Exception as error:  # the exceptions of ONNX Runtime and protobuf share no base but Exception
            raise GraphLoadError(self._path, one_line(error)) from error
        self._inputs = {value.name: value for value in self._session.get_inputs()}
        self._outputs = [value.name for value in self._session.get_outputs()]
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

    def step(self, inputs: StepInputs, carried: Carried) -> dict[str, Any]:
        """Run one step.

        Args:
            inputs: as many tokens as the graph takes in a step.
            carried: values that earlier parts computed in this step.

        Returns:
            All outputs, as ``OrtValue``.

        Raises:
            GraphRunError: ONNX Runtime stopped.
        """
        import onnxruntime

        given = {name: np.ascontiguousarray(getattr(inputs, name)) for name in STEP_INPUTS if name in self._inputs}
        feeds = {name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in given.items()}
        feeds |= self._states | {name: value for name, value in carried.items() if name in self._inputs}
        try:
            results = dict(zip(self._outputs, self._session.run_with_ort_values(self._outputs, feeds), strict=True))
        except Exception as error:  # the exceptions of ONNX Runtime share no base but Exception
            raise GraphRunError(self._path, one_line(error)) from error
        self._states = {name: results[state_output(name)] for name in self._state_names}
        return results

    def in_batch(self, value: Any, inputs: StepInputs) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return an output of a step in float32, with the axes ``[batch, seq, …]`` or ``[batch, heads, seq, size]``."""
        del inputs
        array: np.ndarray[Any, np.dtype[np.float32]] = value.numpy().astype(np.float32, copy=False)
        return array


def load_graph(model: onnx.ModelProto, folder: Path, extra: Sequence[str], *, widened: bool) -> Any:
    """Return an ONNX Runtime session of a whole graph in memory; see :class:`GraphSession`."""
    return open_graph(prepare_graph(model, folder, widened=widened), folder, extra)


def open_graph(model: onnx.ModelProto, folder: Path, extra: Sequence[str]) -> Any:
    """Return an ONNX Runtime session of a prepared graph.

    Args:
        model: what :func:`prepare_graph` returned, or a part of it; not changed.
        folder: where its external data lies.
        extra: names of further tensors to show, as far as nodes make them.
    """
    import onnx
    import onnxruntime

    from edgellm_core.runtime.quantized import FLOAT32_INPUTS

    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    made = {name for node in graph.graph.node for name in node.output} - {output.name for output in graph.graph.output}
    # ONNX Runtime infers the types of outputs that are declared without one
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra if name in made)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only: ONNX Runtime warns about optimizations that it declines
    options.enable_cpu_mem_arena = False  # the arena keeps what the longest prompt took
    # 512 tokens of SmolLM2-135M on two busy cores: 3.3 s with threads that wait asleep, 5.2 s with spinning ones
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry(*FLOAT32_INPUTS)
    # a second copy of each weight, in the order in which a kernel reads it, pays off only over many steps
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    disabled = []
    if _folding_bytes(graph) <= available_memory() * 3 // 4:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    else:
        disabled.append("ConstantFolding")
    lent = lend(graph, folder, quantized=bool(_folding_bytes(graph)))
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
    )
    return LendingSession(session, lent) if lent else session


def _folding_bytes(model: onnx.ModelProto) -> int:
    """Return what dequantizing all weights of a prepared graph once takes."""
    tensors = model.graph.initializer
    expanded = any(tensor.name.startswith(CONSTANT) for tensor in tensors)
    elements: int = sum(
        math.prod(tensor.dims) * (2 if tensor.name.endswith(PACKED) else 1)
        for tensor in tensors
        if tensor.data_type in LOW_BIT_TYPES or tensor.name.endswith(PACKED)
    )
    return elements * FOLDING_BYTES[expanded]
