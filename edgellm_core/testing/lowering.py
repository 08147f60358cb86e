"""A model traced, stamped and lowered in memory, and run on ONNX Runtime with the weights of a transformers model.

No checkpoint, no binder, no verification: a family's graph alone is held against transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgellm_core.events import Reporter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from edgellm_core.contract import ModelFamily, Target
    from edgellm_core.surgery.run import RuleResult
    from edgellm_core.tracing.template import Template

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """A lowered graph without weights.

    Attributes:
        template: what was traced.
        model: the graph; its parameters are names without a value.
        rules: what each rule did.
        leftover: operators that no rule lowered.
        notes: what the trace reported.
    """

    template: Template
    model: onnx.ModelProto
    rules: Sequence[RuleResult]
    leftover: Sequence[str]
    notes: Sequence[str]


def transformers_config(fields: Mapping[str, Any]) -> PreTrainedConfig:
    """Return the transformers config of a config.json."""
    from transformers import AutoConfig

    config: Any = AutoConfig.for_model(**fields)
    return config  # type: ignore[no-any-return]


def random_model(config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """Return a random float32 model, with values that matter in every parameter."""
    import torch
    from transformers import AutoModelForCausalLM

    from edgellm_core.testing.checkpoints import randomize

    torch.manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    randomize(model, seed)
    return model  # type: ignore[no-any-return]


def lower_config(
    config: PreTrainedConfig,
    family: ModelFamily,
    precision: str = "fp32",
    *,
    target: Target | None = None,
    full_depth: bool = False,
) -> Lowered:
    """Trace, stamp and lower; the default target is ``onnx``."""
    import onnx_graphsurgeon as gs
    from onnx import helper

    from edgellm_core.surgery.rules import core_rules
    from edgellm_core.surgery.run import leftover_operators, run_rules
    from edgellm_core.targets.onnx import OnnxTarget
    from edgellm_core.tracing.stamping import stamp
    from edgellm_core.tracing.trace import trace

    target = target or OnnxTarget()
    notes: list[str] = []
    report = Reporter("trace", lambda event: notes.append(event.message))
    template = trace(config, family, precision, full_depth=full_depth, report=report)
    graph = stamp(template)
    rules = run_rules(graph, [*core_rules(), *family.rules(), *target.rules()], template.dimensions())
    leftover = leftover_operators(graph, target.domains)
    model = gs.export_onnx(graph)
    model.ir_version = template.model.ir_version
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", target.opset))
    return Lowered(template=template, model=model, rules=rules, leftover=leftover, notes=notes)


def with_weights(lowered: Lowered, model: PreTrainedModel) -> onnx.ModelProto:
    """Return the graph with the model's parameters as initializers, in the element type that the graph expects."""
    import onnx
    from onnx import helper, numpy_helper

    bound = onnx.ModelProto()
    bound.CopyFrom(lowered.model)
    values: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    values.update(model.named_buffers())
    used = {name for node in bound.graph.node for name in node.input}
    for name, spec in lowered.template.stamped_parameters().items():
        if name in used:
            dtype = helper.tensor_dtype_to_np_dtype(_ONNX_TYPES[spec.element_type])
            array = values[name].detach().float().numpy().astype(dtype)
            bound.graph.initializer.append(numpy_helper.from_array(array, name))
    return bound


_ONNX_TYPES = {"F32": 1, "F16": 10, "BF16": 16, "I64": 7}
"""safetensors' element types as numbers of ``onnx.TensorProto``."""


def padded_tokens(paddings: Sequence[int], length: int, vocab: int, seed: int = 1) -> tuple[Array, Array]:
    """Return random ids and the attention mask ``[batch, length]`` with the given left paddings."""
    random = np.random.default_rng(seed)
    ids = random.integers(3, vocab, (len(paddings), length))
    mask = (np.arange(length)[None] >= np.asarray(paddings)[:, None]).astype(np.int64)
    return ids, mask


def positions(mask: Array) -> Array:
    """Return position ids that count tokens, as transformers' generate makes them."""
    counted: Array = np.maximum(mask.cumsum(1) - 1, 0)
    return counted


def run_graph(model: onnx.ModelProto, ids: Array, mask: Array, chunks: Sequence[int]) -> list[Array]:
    """Return the logits of each chunk, ``[batch, chunk, vocab]``, the cache being handed on.

    Args:
        model: a lowered graph with weights.
        ids: int64 ``[batch, sum(chunks)]``.
        mask: like ``ids``; 0 for left padding.
        chunks: tokens of each step.
    """
    return run_session(open_session(model), ids, mask, chunks)


def open_session(model: onnx.ModelProto) -> Any:
    """Return an ONNX Runtime session on one thread of the CPU: tiny graphs gain nothing from more."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_session(session: Any, ids: Array, mask: Array, chunks: Sequence[int]) -> list[Array]:
    """Do what ``run_graph`` does with a session of ONNX Runtime."""
    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    state: dict[str, Array] = {
        value.name: np.zeros((len(ids), value.shape[1], 0, value.shape[3]), types[value.type])
        for value in session.get_inputs()
        if value.name.startswith("past_")
    }
    names = [value.name for value in session.get_outputs()]
    given = positions(mask)
    logits, end = [], 0
    for chunk in chunks:
        start, end = end, end + chunk
        feeds = {
            "input_ids": ids[:, start:end],
            "attention_mask": mask[:, :end],
            "position_ids": given[:, start:end],
            **state,
        }
        results = dict(zip(names, session.run(None, feeds), strict=True))
        logits.append(results.pop("logits"))
        state = {name.replace("present.", "past_key_values."): value for name, value in results.items()}
    return logits


def run_transformers(model: PreTrainedModel, ids: Array, mask: Array, chunks: Sequence[int]) -> list[Array]:
    """Return transformers' own logits of each chunk over its own cache."""
    import inspect

    import torch
    from transformers import DynamicCache

    caller: Any = model
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    cache, given = DynamicCache(config=model.config), torch.from_numpy(positions(mask))
    logits, end = [], 0
    with torch.no_grad():
        for chunk in chunks:
            start, end = end, end + chunk
            output = caller(
                input_ids=torch.from_numpy(ids[:, start:end]),
                attention_mask=torch.from_numpy(mask[:, :end]),
                past_key_values=cache,
                use_cache=True,
                **({"position_ids": given[:, start:end]} if takes_positions else {}),
            )
            logits.append(output.logits.float().numpy())
    return logits


def relative_error(found: Sequence[Array], expected: Sequence[Array], mask: Array) -> float:
    """Return the largest difference at real tokens, relative to the largest logit."""
    real = mask.astype(bool)
    ours = np.concatenate([logits.astype(np.float32) for logits in found], axis=1)[real]
    theirs = np.concatenate(expected, axis=1)[real]
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
