"""The rule that makes ``trt_edgellm::AttentionPlugin``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from edgellm_core.surgery.rule import SEMANTIC_DOMAIN, Editor, Expected, Rule, semantic
from edgellm_core.targets.edge_llm.attention_pattern import AttentionPattern, Stream, read_attention, whole_projection
from edgellm_core.targets.edge_llm.errors import SeveralRopesError
from edgellm_core.targets.edge_llm.interface import PAGE_TOKENS, PAST, PRESENT, TOKENS, runtime_input
from edgellm_core.targets.edge_llm.quantized_cache import NOT_MEASURED
from edgellm_core.targets.edge_llm.quantized_linear import PLUGIN_DOMAIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellm_core.contract import GraphDimensions

FIXED: Final[dict[str, Any]] = {
    "enable_tree_attention": 0,
    "enable_context_mask_selector": 0,
    "enable_vision_block_attention": 0,
    "skip_softmax_scale_factor": 0.0,
    "enable_kv_shared": 0,
    "enable_contiguous_query_swa": 0,
    "plugin_version": "1",
}
"""Attributes that a plain decoder does not use, as the wheel writes them."""

DEFAULT_EPSILON: Final = 1e-6
"""``rms_norm_eps`` where no head is normalised: the wheel's default."""


class AttentionToPlugin(Rule):
    """Heads, qk-norm, ``Rotary``, ``Append``, ``Attention`` → ``AttentionPlugin`` on one joined projection.

    The projections of queries, keys and values become one ``edgellm::Linear`` whose weight is joined when the weights
    are written. Where something stands between a projection and its heads, the parts are joined instead.
    """

    def expected(self, dimensions: GraphDimensions) -> Expected:
        """One for every attention call."""
        return Expected(at_least=dimensions.attentions)

    def match(self, node: gs.Node, graph: gs.Graph) -> bool:
        """Match the semantic operator; what the plugin can't do is refused when it is rewritten."""
        del graph
        return semantic(node, "Attention")

    def rewrite(self, node: gs.Node, edit: Editor) -> None:
        """Write the joined projection and the plugin.

        Raises:
            AttentionNotExpressibleError: the plugin can't do what the attention does.
        """
        pattern = read_attention(node)
        qkv = _Projection(node.name, pattern, edit).write()
        inputs = [qkv, *_cache_inputs(node, pattern, edit), *_optional_inputs(node.name, pattern, edit)]
        inputs += [runtime_input(name, edit) for name in _AFTER]
        heads, present = edit.nodes(
            "AttentionPlugin", inputs, [f"{node.name}.heads", f"{PRESENT}{pattern.layer}"],
            name=node.name, domain=PLUGIN_DOMAIN, **_attributes(pattern),
        )  # fmt: skip
        query = pattern.query
        heads.dtype, heads.shape = qkv.dtype, [TOKENS, query.heads, query.head_dim]
        present.dtype, present.shape = inputs[1].dtype, inputs[1].shape
        joined = edit.node(
            "Reshape",
            [heads, edit.constant([0, query.heads * query.head_dim])],
            f"{node.name}.joined",
            name=f"{node.name}/heads",
            like=heads,
        )
        joined.shape = pattern.output.shape
        edit.replace(pattern.output, joined)


_BEFORE: Final = ("query_lengths", "rope_rotary_cos_sin", "past_lengths", "kv_page_table")
_AFTER: Final = (
    "query_start_offsets", "attention_sequence_lengths", "execution_phase_marker", "context_sequence_count_carrier",
)  # fmt: skip


def _cache_inputs(node: gs.Node, pattern: AttentionPattern, edit: Editor) -> list[gs.Tensor]:
    key = pattern.key
    shape = [2, "num_pages", PAGE_TOKENS, key.heads, key.head_dim]
    dtype = np.float16 if pattern.qkv_scales is None else helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN)
    pool = gs.Variable(f"{PAST}{pattern.layer}", dtype, shape)
    given = [runtime_input(name, edit) for name in _BEFORE]
    rotary = pattern.query.rotary
    assert rotary is not None  # for mypy: the reader refuses it
    given[1].shape = [TOKENS, int(rotary.attrs["rotary_dim"])]
    cos = rotary.inputs[1]
    if edit.shared("cos", lambda: cos) is not cos:
        raise SeveralRopesError(node.name)
    return [pool, *given]


def _attributes(pattern: AttentionPattern) -> dict[str, Any]:
    norm = pattern.query.norm
    return {
        "num_q_heads": pattern.query.heads,
        "num_kv_heads": pattern.key.heads,
        "head_size": pattern.query.head_dim,
        "sliding_window_size": pattern.window,
        "attention_scale": pattern.scale,
        "rms_norm_eps": norm.epsilon if norm else DEFAULT_EPSILON,
        "enable_qk_norm": int(norm is not None),
        "qk_norm_post_rope": int(norm is not None and norm.after_rotary),
        "enable_attention_sink": int(pattern.sinks is not None),
        "enable_fp8_kv_cache": int(pattern.qkv_scales is not None),
        "qkv_scales": list(pattern.qkv_scales or (NOT_MEASURED,) * 3),
        **FIXED,
    }


def _optional_inputs(name: str, pattern: AttentionPattern, edit: Editor) -> list[gs.Tensor]:
    """Return the gammas and sinks that there are, in the plugin's order."""
    inputs: list[gs.Tensor] = []
    for label, stream in (("q", pattern.query), ("k", pattern.key)):
        if stream.norm is not None:
            gamma = stream.norm.gamma
            order = halves(stream) if _interleaved(stream) else []
            if order:
                gamma = edit.node(
                    "Gather",
                    [gamma, edit.constant(order)],
                    f"{gamma.name}.halves",
                    name=f"{name}/{label}_gamma",
                    like=gamma,
                    axis=0,
                )
            inputs.append(gamma)
    if pattern.sinks is not None:
        sinks = pattern.sinks
        wide = gs.Variable(f"{sinks.name}.float32", dtype=np.float32)
        inputs.append(edit.cast(sinks, wide, name=f"{name}/sinks"))
    return inputs


def _interleaved(stream: Stream) -> bool:
    return stream.rotary is not None and bool(stream.rotary.attrs["interleaved"])


def halves(stream: Stream, *, heads: int = 1) -> list[int]:
    """Return the channels of ``heads`` heads in the order that turns neighbouring pairs into halves.

    Both queries and keys are reordered, so their products stay what they are, and the plugin only knows halves.
    """
    assert stream.rotary is not None  # for mypy
    size, width = int(stream.rotary.attrs["rotary_dim"]), stream.head_dim
    one = [*range(0, size, 2), *range(1, size, 2), *range(size, width)]
    return [head * width + channel for head in range(heads) for channel in one]


class _Projection:
    """Writes the input of the plugin: ``[tokens, (heads + 2 * kv_heads) * head_dim]``."""

    def __init__(self, name: str, pattern: AttentionPattern, edit: Editor) -> None:
        self._name, self._edit = name, edit
        self._streams = (pattern.query, pattern.key, pattern.value)

    def write(self) -> gs.Tensor:
        """Return it."""
        if not _interleaved(self._streams[0]):
            whole = whole_projection(self._streams)
            if whole is not None:
                return whole
        linears = [_plain_linear(stream.flat) for stream in self._streams]
        found = [node for node in linears if node is not None]
        if (
            len(found) == 3
            and len({id(node.inputs[0]) for node in found}) == 1
            and len({len(n.inputs) for n in found}) == 1
        ):
            return self._one_linear(found)
        parts = [self._reordered(stream, label) for stream, label in zip(self._streams, "qkv", strict=True)]
        joined = self._edit.node("Concat", parts, f"{self._name}.qkv", name=f"{self._name}/qkv", like=parts[0], axis=-1)
        joined.shape = self._shape(parts[0])
        return joined

    def _shape(self, part: gs.Tensor) -> list[Any]:
        return [*part.shape[:-1], sum(stream.heads * stream.head_dim for stream in self._streams)]

    def _reordered(self, stream: Stream, label: str) -> gs.Tensor:
        if not _interleaved(stream):
            return stream.flat
        order = self._edit.constant(halves(stream, heads=stream.heads))
        name = f"{self._name}/{label}_halves"
        turned = self._edit.node("Gather", [stream.flat, order], f"{name}.out", name=name, like=stream.flat, axis=-1)
        turned.shape = stream.flat.shape
        return turned

    def _one_linear(self, linears: Sequence[gs.Node]) -> gs.Tensor:
        operands = [
            self._joined([node.inputs[index] for node in linears]) for index in range(1, len(linears[0].inputs))
        ]
        x, like = linears[0].inputs[0], linears[0].outputs[0]
        [joined] = self._edit.nodes(
            "Linear", [x, *operands], [f"{self._name}.qkv"], name=f"{self._name}/qkv", domain=SEMANTIC_DOMAIN
        )
        joined.dtype, joined.shape = like.dtype, self._shape(like)
        return joined

    def _joined(self, parameters: Sequence[gs.Tensor]) -> gs.Tensor:
        """Return the rows of three weights or biases as one; the weights' binder takes the nodes into a recipe."""
        rows = []
        for stream, parameter in zip(self._streams, parameters, strict=True):
            if not _interleaved(stream):
                rows.append(parameter)
                continue
            name, order = f"{parameter.name}.halves", self._edit.constant(halves(stream, heads=stream.heads))
            rows.append(self._edit.node("Gather", [parameter, order], name, name=name, like=parameter, axis=0))
            rows[-1].shape = parameter.shape
        first = parameters[0]
        name = joined_name([tensor.name for tensor in parameters])
        joined = self._edit.node("Concat", rows, name, name=f"{self._name}/{name}", like=first, axis=0)
        joined.shape = [sum(int(tensor.shape[0]) for tensor in parameters), *first.shape[1:]]
        return joined


def joined_name(names: Sequence[str]) -> str:
    """Return the name of joined parameters: ``….q_proj.weight``, … → ``….qkv_proj.weight``."""
    parts = [name.split(".") for name in names]
    same = len({(*part[:-2], part[-1]) for part in parts if len(part) > 2}) == 1
    if same and all(len(part) == len(parts[0]) for part in parts):
        return ".".join([*parts[0][:-2], "qkv_proj", parts[0][-1]])
    return "+".join(names)


def _plain_linear(flat: gs.Tensor) -> gs.Node | None:
    """Return the linear layer with parameters of its own that makes a tensor which nothing else reads."""
    maker = flat.inputs[0] if flat.inputs else None
    if maker is None or not semantic(maker, "Linear") or len(flat.outputs) != 1:
        return None
    return maker if all(not tensor.inputs for tensor in maker.inputs[1:]) else None
