"""One trace from config to template. Importing this module imports torch and transformers."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Final

import onnx
import torch
from onnx import helper

from edgellm_core.tracing.aten import TABLE
from edgellm_core.tracing.attention import TraceContext, recorded_attention
from edgellm_core.tracing.calls import count_calls, remove_dead_nodes
from edgellm_core.tracing.checkpoint_names import loaded_names, parameter_sources
from edgellm_core.tracing.constant_numbers import fold_numbers
from edgellm_core.tracing.converter import ELEMENT, IR_VERSION, OPSET, Converter, UnsupportedOperatorError
from edgellm_core.tracing.errors import UntraceableModelError
from edgellm_core.tracing.generation_probe import find_reread
from edgellm_core.tracing.graph_import import import_graph
from edgellm_core.tracing.layer_states import LayerState, state_tensors
from edgellm_core.tracing.layers import LayerStack, analyse_stack, depth_of, keep_traced_layers
from edgellm_core.tracing.left_out import knowingly_left_out
from edgellm_core.tracing.length_branches import LengthBranches
from edgellm_core.tracing.modeling_code import quiet_libraries
from edgellm_core.tracing.operators import DOMAIN
from edgellm_core.tracing.probe import probe_cache
from edgellm_core.tracing.program import TracedProgram, export_program, traceable_formulas
from edgellm_core.tracing.stamping import NotStampableError, check_stampable
from edgellm_core.tracing.template import ParameterSpec, Template
from edgellm_core.tracing.weightless import build_weightless, give_fake_parameters, new_fake_mode
from edgellm_core.tracing.wrappers import family_wrappers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import PreTrainedConfig, PreTrainedModel

    from edgellm_core.contract import ModelFamily
    from edgellm_core.events import Reporter

TORCH_TYPES: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_SAFETENSORS_TYPES: Final = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}
_NOT_AT_ONCE: Final = "its generate reads a text again at {length} tokens, and its graph takes one token a step"
_WRAPPED: Final = "model."
"""Prefix that the exported forward puts before the model's own parameter names."""


def trace(
    config: PreTrainedConfig,
    family: ModelFamily,
    precision: str,
    *,
    full_depth: bool,
    report: Reporter,
    tensor_names: Collection[str] = (),
    one_token: bool = False,
) -> Template:
    """Trace a model without weights.

    Args:
        config: transformers config; not changed.
        family: the family that was selected.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        full_depth: trace every layer instead of stamping.
        report: told when the model can't be stamped and is traced whole.
        tensor_names: tensors of the checkpoint, for parameters that it holds under other names or in pieces.
        one_token: steps of several tokens are known not to be traceable.

    Raises:
        UnsupportedArchitectureError: the model is no decoder.
        UntraceableModelError: the graph could not reproduce the model.
        PluginError: a wrapper of the family is wrong.
    """
    whole, branches = full_depth, LengthBranches()
    with quiet_libraries():
        while True:
            try:
                template = _trace_once(
                    copy.deepcopy(config),
                    family,
                    TORCH_TYPES[precision],
                    tensor_names,
                    full_depth=whole,
                    one_token=one_token,
                    branches=branches,
                )
                for branch in branches.found:
                    report.note(f"{branch}; {branches.consequence}.")
                return template  # noqa: TRY300  # what follows is for the next attempt
            except LongSideError as reason:
                branches = LengthBranches(long=False, reason=str(reason))
            except NotStampableError as reason:
                report.note(f"Tracing every layer, since {reason}.")
                whole = True
            except SeveralTokensError:
                report.note("The graph takes one token a step: prefill runs token by token.")
                one_token = True


class LongSideError(Exception):
    """The side of long sequences of a branch in the model's code can't be traced."""


class SeveralTokensError(Exception):
    """A step of several tokens can't be traced, in a model whose states may be the cause."""


def _trace_once(
    config: PreTrainedConfig,
    family: ModelFamily,
    dtype: torch.dtype,
    tensor_names: Collection[str],
    *,
    full_depth: bool,
    one_token: bool,
    branches: LengthBranches,
) -> Template:
    model = build_weightless(config, dtype)
    tied = tied_parameters(model)
    reread = find_reread(model)
    if one_token and reread:
        raise UntraceableModelError(type(model).__name__, _NOT_AT_ONCE.format(length=reread.at))
    names = loaded_names(model, tensor_names)
    sources, left_out = parameter_sources(model, names), knowingly_left_out(model, names)
    stack, states, mode = reduce_and_probe(model, family, full_depth=full_depth)
    rename = _parameter_naming(stack, tied)
    try:
        traced = export_program(model, family, stack, states, mode, one_token=one_token, branches=branches)
        proto = to_onnx(traced, model, rename)
    except UntraceableModelError as error:
        if branches.found and branches.long:
            raise LongSideError(error.reason) from error
        if one_token or all(tensor.grows for tensor in state_tensors(states)):
            raise
        raise SeveralTokensError from error
    branches.require_long_sides(config, type(model).__name__)
    if stack is not None and stack.guards:
        check_stampable(import_graph(proto), stack.path, stack.guards)
    return Template(
        model=proto,
        layers=stack.path if stack else "",
        representative_of=stack.representative_of if stack else tuple(range(depth_of(model, stack))),
        parameters=_parameter_specs(proto, traced),
        sources=sources,
        tied=tied,
        left_out=left_out,
        calls=count_calls(traced.program.graph),
        reread=reread,
    )


def reduce_and_probe(
    model: PreTrainedModel, family: ModelFamily, *, full_depth: bool
) -> tuple[LayerStack | None, list[LayerState], FakeTensorMode]:
    """Leave a weightless model the layers that are traced, on fake tensors, and find what they keep between steps.

    Returns:
        The decoder layers (None if they are not known), their states, and the mode of the fake tensors.

    Raises:
        UntraceableModelError: the model keeps its state elsewhere, or in an unknown form.
    """
    from edgellm_core.tracing.weightless import restored_modules

    config = copy.deepcopy(model.config)
    stack = analyse_stack(model, full_depth=full_depth)
    if stack is not None:
        keep_traced_layers(model, stack)
    mode = new_fake_mode()
    give_fake_parameters(model, mode)
    layers = stack.traced if stack else range(depth_of(model, stack))
    with mode, restored_modules(model):
        ids = torch.zeros(2, 3, dtype=torch.long)
        context = TraceContext(family=family, valid=torch.ones(2, 3, dtype=torch.long), input_ids=ids)
        with recorded_attention(context), family_wrappers(model, family), traceable_formulas(model):
            return stack, probe_cache(model, config, layers), mode


def tied_parameters(model: PreTrainedModel) -> dict[str, str]:
    """Return, for every group of names that share storage, each other name → the first one."""
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            tied[name] = first[id(parameter)]
        else:
            first[id(parameter)] = name
    return tied


def _parameter_naming(stack: LayerStack | None, tied: Mapping[str, str]) -> Callable[[str], str]:
    """Return the function from a name in the reduced model to the one name of that storage in the whole model."""

    def rename(name: str) -> str:
        name = name.removeprefix(_WRAPPED)
        if stack is None or not name.startswith(stack.path + "."):
            return tied.get(name, name)
        position, _, rest = name.removeprefix(stack.path + ".").partition(".")
        return f"{stack.path}.{stack.traced[int(position)]}.{rest}"

    return rename


def to_onnx(traced: TracedProgram, model: PreTrainedModel, rename: Callable[[str], str]) -> onnx.ModelProto:
    """Convert an exported program; parameters and persistent buffers become graph inputs, other buffers constants.

    Raises:
        UntraceableModelError: neither the own table nor ``torch.onnx`` has an operator.
    """
    fold_numbers(traced.program, TABLE)
    remove_dead_nodes(traced.program.graph)
    try:
        proto = _by_table(traced, model, rename)
    except UnsupportedOperatorError as missing:
        from edgellm_core.tracing.fallback import by_torch_onnx

        proto = by_torch_onnx(traced, model, rename, str(missing))
    take_sizes_from_ids(proto.graph)
    return proto


def take_sizes_from_ids(graph: onnx.GraphProto) -> None:
    """Read batch and past from ids and mask, not from a layer's cache, so that no shared value hangs on a layer."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "Shape" and node.input[0].startswith("past_"):
            axis = bounds.get("start", 0)
            growing = 1 if node.input[0].endswith(".indexer") else 2
            if bounds.get("end") == axis + 1 and axis == 0:
                node.input[0] = "input_ids"
            elif bounds.get("end") == axis + 1 and axis == growing:
                lengths = [f"{node.name}.total", f"{node.name}.seq"]
                for source, length in zip(("attention_mask", "input_ids"), lengths, strict=True):
                    nodes.append(helper.make_node("Shape", [source], [length], name=length, start=1, end=2))
                node = helper.make_node("Sub", lengths, list(node.output), name=node.name)  # noqa: PLW2901
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _by_table(traced: TracedProgram, model: PreTrainedModel, rename: Callable[[str], str]) -> onnx.ModelProto:
    program = traced.program
    graph = program.graph
    signature = program.graph_signature
    stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    persistent = set(model.state_dict())
    converter = Converter(_dimension_names(traced))
    real_inputs, user_inputs = [], iter(traced.input_names)
    parameters: dict[str, torch.Tensor] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            value = node.meta["val"]
            if node.name in stored:
                inner = stored[node.name].removeprefix(_WRAPPED)
                if inner in persistent:
                    converter.values[node] = rename(stored[node.name])
                    parameters[rename(stored[node.name])] = value
                else:
                    converter.values[node] = converter.constant(model.get_buffer(inner))
            elif node.name in signature.inputs_to_lifted_tensor_constants:
                constant = program.constants[signature.inputs_to_lifted_tensor_constants[node.name]]
                converter.values[node] = converter.constant(constant)
            else:
                converter.values[node] = next(user_inputs)
                real_inputs.append(converter.value_info(converter.values[node], value))
        elif node.op == "call_function":
            converter.convert(node)
    result = next(node for node in reversed(graph.nodes) if node.op == "output")
    outputs = _named_outputs(converter, result.args[0], traced.output_names)
    infos = [converter.value_info(name, value) for name, value in parameters.items()]
    return _model(converter, [*real_inputs, *infos], outputs)


def _named_outputs(
    converter: Converter, results: tuple[torch.fx.Node, ...], names: tuple[str, ...]
) -> list[onnx.ValueInfoProto]:
    """Give the graph's outputs their names: rename their producers, or copy where one value has two names."""
    renamed: dict[str, str] = {}
    outputs = []
    for result, name in zip(results, names, strict=True):
        value = converter.values[result]
        if value in renamed or not any(value in node.output for node in converter.nodes):
            converter.nodes.append(helper.make_node("Identity", [renamed.get(value, value)], [name], name=name))
        else:
            renamed[value] = name
        outputs.append(converter.value_info(name, result.meta["val"]))
    for node in converter.nodes:
        node.input[:] = [renamed.get(value, value) for value in node.input]
        node.output[:] = [renamed.get(value, value) for value in node.output]
    return outputs


def _model(
    converter: Converter, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
) -> onnx.ModelProto:
    used = {value for node in converter.nodes for value in node.input}
    initializers = [tensor for name, tensor in converter.initializers.items() if name in used]
    known = {info.name for info in outputs}
    values = {
        name: converter.value_info(name, node.meta["val"])
        for node, name in converter.values.items()
        if isinstance(name, str) and isinstance(node.meta.get("val"), torch.Tensor) and name not in known
    }
    taken = known | {info.name for info in inputs} | set(converter.initializers)
    infos = [info for name, info in values.items() if name not in taken]
    graph = helper.make_graph(converter.nodes, "template", inputs, outputs, initializers, value_info=infos)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="edgellm")


def _dimension_names(traced: TracedProgram) -> Mapping[str, str]:
    """Return torch's symbols of the dynamic dimensions → their names in our contract."""
    nodes = [n for n in traced.program.graph.nodes if n.op == "placeholder"]
    values = dict(
        zip(traced.input_names, (n.meta["val"] for n in nodes[len(nodes) - len(traced.input_names) :]), strict=True)
    )
    ids, mask = values["input_ids"], values["attention_mask"]
    names = {str(ids.shape[0]): "batch", str(ids.shape[1]): "seq", str(mask.shape[1]): "past + seq"}
    past = next((value for name, value in values.items() if name.startswith("past_key_values.")), None)
    if past is not None:
        total = [str(past.shape[2] + ids.shape[1]), str(ids.shape[1] + past.shape[2])]
        names |= {str(past.shape[2]): "past", **dict.fromkeys(total, "past + seq")}
    return names


def _parameter_specs(proto: onnx.ModelProto, traced: TracedProgram) -> dict[str, ParameterSpec]:
    real = set(traced.input_names)
    types = {ELEMENT[dtype]: name for dtype, name in _SAFETENSORS_TYPES.items()}
    return {
        info.name: ParameterSpec(
            element_type=types[info.type.tensor_type.elem_type],
            shape=tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim),
        )
        for info in proto.graph.input
        if info.name not in real
    }
