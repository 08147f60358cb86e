"""Inputs and outputs of a TensorRT-Edge-LLM 0.11 graph, and what brings a graph there.

Names, element types, symbols and order are those that the exporter of the wheel ``tensorrt-edgellm`` 0.11.0 writes for
a plain decoder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from edgellm_core.surgery.rule import Editor, Expected, Rule, Stage, semantic
from edgellm_core.targets.edge_llm.errors import InputNotExpressibleError, NotTokenMajorError
from edgellm_core.targets.edge_llm.quantized_linear import give_int4_three_axes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgellm_core.contract import GraphDimensions

PAGE_TOKENS: Final = 128
"""Tokens of one page of the KV pool."""

SEQUENCES, TOKENS = "num_sequences", "physical_tokens"

SCALARS: Final = {
    "rope_rotary_cos_sin": (np.float32, [TOKENS, "rotary_dim"]),
    "positions": (np.int32, [TOKENS]),
    "query_start_offsets": (np.int32, ["num_sequences + 1"]),
    "query_lengths": (np.int32, [SEQUENCES]),
    "past_lengths": (np.int32, [SEQUENCES]),
    "attention_sequence_lengths": (np.int32, [SEQUENCES]),
    "state_indices": (np.int32, [SEQUENCES]),
    "execution_phase_marker": (np.int32, ["execution_phase_extent"]),
    "context_sequence_count_carrier": (np.int32, ["num_context_sequences"]),
    "kv_page_table": (np.int32, [SEQUENCES, 2, "max_pages_per_seq"]),
    "logits_indices": (np.int64, [SEQUENCES]),
}
"""Inputs after those of the KV pools, in order: name → element type and shape."""

OLD_INPUTS: Final = ("input_ids", "attention_mask", "position_ids")
PAST, PRESENT = "past_key_values_", "present_key_values_"
EMBEDS: Final = "inputs_embeds"
"""Input before all others: the rows of the embedding table, ``[physical_tokens, hidden]``."""


def runtime_input(name: str, edit: Editor) -> gs.Tensor:
    """Return the input of that name; the same one at every call."""
    dtype, shape = SCALARS[name]
    return edit.shared(("input", name), lambda: gs.Variable(name, dtype, shape))


class HeadToChosenTokens(Rule):
    """``edgellm::Linear(x, head)`` → ``edgellm::Linear(Gather(x, logits_indices), head)``: only chosen tokens count.

    It runs before layers are lowered, so that a quantized head is found too.
    """

    stage: ClassVar[Stage] = "clean"

    def expected(self, dimensions: GraphDimensions) -> Expected:
        """Once."""
        del dimensions
        return Expected.exactly(1)

    def match(self, node: gs.Node, graph: gs.Graph) -> bool:
        """Match the last linear layer before the logits."""
        if not semantic(node, "Linear") or any(_chooses(maker) for maker in node.inputs[0].inputs):
            return False
        return head_of(graph) is node

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Gather the input of the head."""
        x, name = node.inputs[0], node.name
        indices = runtime_input("logits_indices", edit)
        chosen = edit.node("Gather", [x, indices], f"{name}.chosen", name=f"{name}/chosen", like=x, axis=0)
        chosen.shape = [SEQUENCES, *x.shape[2:]]
        [logits] = edit.nodes(
            node.op, [chosen, *node.inputs[1:]], [f"{name}.chosen_logits"], name=name, domain=node.domain
        )
        logits.dtype = node.outputs[0].dtype
        edit.replace(node.outputs[0], logits)


def head_of(graph: gs.Graph) -> gs.Node | None:
    """Return the linear layer that the logits come from, through elementwise operators only."""
    logits = next(tensor for tensor in graph.outputs if tensor.name == "logits")
    tensor = logits
    while tensor.inputs:
        node = tensor.inputs[0]
        if semantic(node, "Linear"):
            return node
        variable = [one for one in node.inputs if one.inputs]
        if len(variable) != 1:
            return None
        tensor = variable[0]
    return None


def finish(graph: gs.Graph) -> None:
    """Give a lowered graph the inputs and outputs of the runtime, and drop what only the old ones needed.

    Raises:
        InputNotExpressibleError: a remaining operator reads the mask, the ids or the positions.
        NotTokenMajorError: a remaining operator depends on the axes of a batch.
    """
    plugins = sorted((node for node in graph.nodes if node.op == "AttentionPlugin"), key=_layer)
    logits = next(tensor for tensor in graph.outputs if tensor.name == "logits")
    graph.outputs = [_float32_logits(graph, logits), *(node.outputs[1] for node in plugins)]
    graph.cleanup(remove_unused_graph_inputs=False).toposort()
    _refuse_old_inputs(graph)
    present = {tensor.name: tensor for node in graph.nodes for tensor in node.inputs if not tensor.inputs}
    embeds = present[EMBEDS]
    scalars = [present.get(name) or gs.Variable(name, *kind) for name, kind in SCALARS.items()]
    graph.inputs = [embeds, *(node.inputs[1] for node in plugins), *scalars]
    _make_token_major(graph)


def _layer(node: gs.Node) -> int:
    return int(node.inputs[1].name.removeprefix(PAST))


def _float32_logits(graph: gs.Graph, logits: gs.Tensor) -> gs.Tensor:
    """Return the logits as float32 [num_sequences, vocab]."""
    vocab = logits.shape[-1]
    wide = gs.Variable("logits", np.float32, [SEQUENCES, vocab])
    logits.name, logits.shape = "logits.narrow", [SEQUENCES, vocab]
    graph.nodes.append(gs.Node("Cast", "logits/Cast", {"to": onnx.TensorProto.FLOAT}, [logits], [wide]))
    return wide


def _refuse_old_inputs(graph: gs.Graph) -> None:
    for name in OLD_INPUTS:
        readers = [node.name for node in graph.nodes if any(tensor.name == name for tensor in node.inputs)]
        if readers:
            raise InputNotExpressibleError(name, readers)
    for node in graph.nodes:
        for tensor in node.inputs:
            if tensor.name.startswith("past_") and "." in tensor.name:
                raise InputNotExpressibleError(tensor.name, [node.name])


ELEMENTWISE: Final = frozenset(
    {
        "Abs", "Add", "And", "Cast", "Ceil", "Clip", "Cos", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu",
        "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Less", "LessOrEqual", "Log",
        "Max", "Min", "Mish", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid",
        "Sign", "Sin", "Softplus", "Sqrt", "Sub", "Swish", "Tanh", "Where", "QuantizeLinear", "DequantizeLinear",
    }
)  # fmt: skip
"""Operators that take any rank, as long as a constant operand has no more axes than what it meets."""

LAST_AXIS: Final = {
    "RMSNormalization": "axis", "LayerNormalization": "axis", "Softmax": "axis", "LogSoftmax": "axis", "Split": "axis",
    "Concat": "axis", "TRT_FP4DynamicQuantize": "axis", "TRT_MXFP8DynamicQuantize": "axis",
    "TRT_MXFP8DequantizeLinear": "axis",
}  # fmt: skip
"""Operators that work along one axis → the attribute that names it."""

REDUCTIONS: Final = frozenset({"ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare", "ReduceL2"})
OF_TOKENS: Final = frozenset(
    {"AttentionPlugin", "Fp16MoePlugin", "Int4GroupwiseGemmPluginV2", "Int4MoePlugin", "MatMul", "QkvConcatPlugin"}
)


def _make_token_major(graph: gs.Graph) -> None:
    """Turn axes of ``[batch, seq, hidden]`` into axes of ``[tokens, hidden]``, and forget the shapes in between.

    Raises:
        NotTokenMajorError: an operator can't be turned.
    """
    kept = {id(tensor) for tensor in (*graph.inputs, *graph.outputs)}
    for node in _token_nodes(graph):
        _turn(node)
        for tensor in node.outputs:
            if id(tensor) not in kept:
                tensor.shape = None
    give_int4_three_axes(graph)


def _token_nodes(graph: gs.Graph) -> Iterator[gs.Node]:
    """Yield the nodes that depend on an input of the graph, in order."""
    depends = {id(tensor) for tensor in graph.inputs}
    for node in graph.nodes:
        if any(id(tensor) in depends for tensor in node.inputs):
            depends.update(id(tensor) for tensor in node.outputs)
            yield node


def _turn(node: gs.Node) -> None:
    where = f"{node.name} ({node.op})"
    if node.op in OF_TOKENS or _chooses(node) or _joins_heads(node):
        return
    if node.op in ELEMENTWISE:
        if any(_rank(tensor) > 2 and not tensor.inputs for tensor in node.inputs):
            raise NotTokenMajorError([where], "a constant has more than two axes")
        return
    if node.op in LAST_AXIS:
        _last(node, LAST_AXIS[node.op], where)
        return
    if node.op in REDUCTIONS:
        _last_of_input(node, where)
        return
    if node.op == "Gather" and int(node.attrs.get("axis", 0)) in (-1, 2):
        node.attrs["axis"] = -1
        return
    if node.op == "Slice":
        _last_of_input(node, where, axes_input=3)
        return
    raise NotTokenMajorError([where], "it depends on the axes of a batch")


def _chooses(node: gs.Node) -> bool:
    """Say whether a node takes the tokens whose logits are wanted."""
    return bool(node.op == "Gather" and node.inputs[1].name == "logits_indices")


def _joins_heads(node: gs.Node) -> bool:
    """Say whether a node joins the heads of a plugin's output, whose first axis is the tokens already."""
    return bool(node.op == "Reshape" and any(maker.op == "AttentionPlugin" for maker in node.inputs[0].inputs))


def _rank(tensor: gs.Tensor) -> int:
    return len(tensor.shape) if tensor.shape is not None else 0


def _last(node: gs.Node, attribute: str, where: str) -> None:
    axis = int(node.attrs.get(attribute, -1))
    rank = max(_rank(tensor) for tensor in (*node.inputs, *node.outputs))
    if axis not in (-1, 2) or rank > 3:
        raise NotTokenMajorError([where], f"it works along axis {axis}, not along the last of three")
    node.attrs[attribute] = -1


def _last_of_input(node: gs.Node, where: str, axes_input: int = 1) -> None:
    axes: Any = node.inputs[axes_input] if len(node.inputs) > axes_input else None
    values = axes.values.tolist() if isinstance(axes, gs.Constant) else None
    if values not in ([-1], [2]):
        raise NotTokenMajorError([where], f"it works along the axes {values}, not along the last of three")
    if values == [2]:
        node.inputs[axes_input] = gs.Constant(f"{node.name}.last", np.array([-1], np.int64))
