"""The slow way to ONNX, for programs with operators that our own table lacks: ``torch.onnx``."""

from __future__ import annotations

import logging
import re
import warnings
from typing import TYPE_CHECKING, Any

import torch

from edgellm_core.tracing.converter import IR_VERSION, OPSET
from edgellm_core.tracing.errors import UntraceableModelError
from edgellm_core.tracing.widened_operands import cast_operands

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx
    from transformers import PreTrainedModel

    from edgellm_core.tracing.program import TracedProgram

_WRAPPED = "model."


def by_torch_onnx(
    traced: TracedProgram, model: PreTrainedModel, rename: Callable[[str], str], missing: str
) -> onnx.ModelProto:
    """Convert a program through ``torch.onnx``.

    Args:
        traced: the exported program.
        model: the weightless model; its persistent tensors become graph inputs.
        rename: name in the exported program → name in the whole model.
        missing: the operator that the own table lacks, for the error message.

    Raises:
        UntraceableModelError: ``torch.onnx`` can't convert it either.
    """
    cast_operands(traced.program.graph_module.graph)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported: Any = torch.onnx.export(
                traced.program,
                opset_version=OPSET,
                optimize=False,
                verbose=False,
                input_names=list(traced.input_names),
                output_names=list(traced.output_names),
            )
    except torch.onnx.OnnxExporterError as error:
        found = re.search(r"<OpOverload\(op='([\w.]+)'", str(error))
        reason = f"ONNX has no form of its operator {found[1] if found else missing}"
        raise UntraceableModelError(type(model).__name__, reason) from error
    finally:
        logger.setLevel(level)
    return _weightless_proto(exported.model, model, rename, traced)


def _weightless_proto(
    exported: Any, model: PreTrainedModel, rename: Callable[[str], str], traced: TracedProgram
) -> onnx.ModelProto:
    import onnx_ir
    from onnx_ir.passes import common

    passes: Any = common
    for clean in (
        passes.InlinePass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),
        # graphsurgeon can't export an attribute that is an empty list
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    ):
        clean(exported)
    persistent = {f"{_WRAPPED}{name}" for name in model.state_dict()}
    graph = exported.graph
    for name in [name for name in graph.initializers if name in persistent]:
        value = graph.initializers.pop(name)
        value.const_value = None
        value.name = rename(name)
        graph.inputs.append(value)
    _name_dimensions(graph, traced)
    proto = onnx_ir.serde.serialize_model(exported)
    proto.ir_version = IR_VERSION
    return proto


def _name_dimensions(graph: Any, traced: TracedProgram) -> None:
    """Give the inputs and outputs the dimension names of our contract; ``torch.onnx`` loses them."""
    import onnx_ir

    dims: list[Any]
    for value in [*graph.inputs, *graph.outputs]:
        if value.name == "attention_mask":
            dims = ["batch", "past + seq"]
        elif value.name in {"input_ids", "position_ids"}:
            dims = ["batch", _static(value.shape[1]) or "seq"]
        elif value.name == "logits":
            dims = ["batch", _static(value.shape[1]) or "seq", value.shape[2]]
        elif value.name.startswith(("past_state.", "present_state.")):
            dims = ["batch", *list(value.shape)[1:]]
        elif value.name in traced.input_names or value.name in traced.output_names:
            length = "past" if value.name.startswith("past_") else "past + seq"
            dims = ["batch", *(_static(size) or length for size in list(value.shape)[1:])]
        else:
            continue
        value.shape = onnx_ir.Shape(dims)


def _static(size: Any) -> int | None:
    return size if isinstance(size, int) else None
