"""Attention, its mask and the cache in standard operators, against loops and float64."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_graphs import NOTHING, apply, execute, model_of, operators, semantic

from edgellm_core.contract import GraphDimensions
from edgellm_core.surgery.errors import RuleCountError
from edgellm_core.surgery.rule import NearMiss
from edgellm_core.surgery.run import run_rules
from edgellm_core.targets.onnx.lower_attention import AppendToConcat, AttentionMaskToLogic, AttentionToAttention
from edgellm_core.tracing.graph_import import import_graph

I64 = np.int64
TYPES = [(np.float32, 2e-6), (np.float16, 4e-3)]
IDS = (I64, ["batch", "seq"])
VALID = (I64, ["batch", "past + seq"])
MASK = (np.bool_, ["batch", 1, "seq", "past + seq"])


def mask_nodes(kinds):
    return [
        semantic("AttentionMask", "valid ids", f"mask{index}", name=f"Mask{index}", **kind)
        for index, kind in enumerate(kinds)
    ]


def lowered_masks(*kinds):
    outputs = {f"mask{index}": MASK for index in range(len(kinds))}
    model = model_of(mask_nodes(kinds), {"valid": VALID, "ids": IDS}, outputs)
    changed, [result] = apply(model, AttentionMaskToLogic())
    assert result.applied == len(kinds)
    return changed


def kind_of(causal=1, window=0, chunk=0):
    return {"causal": causal, "window": window, "chunk": chunk}


def mask_by_loops(valid, seq, kind):
    """The definition: valid keys that causality, window and chunk allow, and always oneself."""
    batch, total = valid.shape
    mask = np.zeros((batch, 1, seq, total), bool)
    for row in range(batch):
        for step in range(seq):
            query = total - seq + step
            for key in range(total):
                allowed = bool(valid[row, key])
                allowed = allowed and (not kind["causal"] or key <= query)
                allowed = allowed and (not kind["window"] or query - key < kind["window"])
                allowed = allowed and (not kind["chunk"] or query // kind["chunk"] == key // kind["chunk"])
                mask[row, 0, step, key] = allowed or key == query
    return mask


KINDS = [
    kind_of(),
    kind_of(causal=0),
    kind_of(window=1),
    kind_of(window=3),
    kind_of(chunk=4),
    kind_of(window=5, chunk=3),
]


@functools.cache
def all_kinds():
    return lowered_masks(*KINDS)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=3), st.integers(0, 8), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_masks_equal_the_definition(paddings, past, seq):
    total = past + seq
    valid = (np.arange(total)[None] >= np.array(paddings)[:, None]).astype(I64)
    found = execute(all_kinds(), valid=valid, ids=np.zeros((len(paddings), seq), I64))
    for kind, mask in zip(KINDS, found, strict=True):
        np.testing.assert_array_equal(mask, mask_by_loops(valid, seq, kind), err_msg=str(kind))


def test_no_row_of_a_mask_is_empty():
    valid = np.zeros((2, 5), I64)
    for mask in execute(all_kinds(), valid=valid, ids=np.zeros((2, 5), I64)):
        assert mask.any(-1).all()


def test_masks_share_their_positions():
    """What all masks have in common is there once, and a second mask costs few nodes."""
    one, two = operators(lowered_masks(kind_of())), operators(lowered_masks(kind_of(), kind_of(window=3)))
    assert one.count("Range") == two.count("Range") == 2
    assert len(two) - len(one) <= 5
    assert len(lowered_masks(kind_of(window=3), kind_of(window=3, chunk=3)).graph.initializer) <= 5


def test_a_mask_that_is_a_graph_output_keeps_its_name():
    assert [output.name for output in lowered_masks(kind_of(), kind_of()).graph.output] == ["mask0", "mask1"]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_append_is_a_concat(dtype):
    past, new = (dtype, ["batch", 2, "past", 4]), (dtype, ["batch", 2, "seq", 4])
    whole = (dtype, ["batch", 2, "past + seq", 4])
    model = model_of([semantic("Append", "past new", "present")], {"past": past, "new": new}, {"present": whole})
    one = GraphDimensions(layers=1, attentions=0, appends=1)
    changed, [result] = apply(model, AppendToConcat(), dimensions=one)
    assert (operators(changed), result.applied) == (["Concat"], 1)
    random = np.random.default_rng(0)
    for length in (0, 3):
        a, b = (
            random.standard_normal((2, 2, length, 4)).astype(dtype),
            random.standard_normal((2, 2, 5, 4)).astype(dtype),
        )
        np.testing.assert_array_equal(execute(changed, past=a, new=b)[0], np.concatenate([a, b], axis=2))
    with pytest.raises(RuleCountError, match=r"AppendToConcat must apply 2 times .* applied 1 times"):
        run_rules(import_graph(model), [AppendToConcat()], GraphDimensions(layers=1, attentions=0, appends=2))


def softmax_attention(q, k, v, allowed, *, scale, softcap=0.0, sinks=None, bias=None):
    """Grouped-query attention in float64, head by head."""
    q, k, v = (value.astype(np.float64) for value in (q, k, v))
    batch, heads, seq, _width = q.shape
    group = heads // k.shape[1]
    output = np.zeros((batch, heads, seq, v.shape[3]))
    for row in range(batch):
        for head in range(heads):
            scores = q[row, head] @ k[row, head // group].T * scale
            if softcap:
                scores = np.tanh(scores / softcap) * softcap
            if bias is not None:
                scores = scores + bias[row, min(head, bias.shape[1] - 1)]
            if allowed is not None:
                scores = np.where(allowed[row, 0], scores, -np.inf)
            extra = np.full((seq, 1), sinks[head]) if sinks is not None else np.full((seq, 1), -np.inf)
            scores = np.concatenate([scores, extra], axis=1)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            output[row, head] = weights[:, :-1] @ v[row, head // group]
    return output


HEADS, GROUPS, WIDTH, VALUE_WIDTH = 6, 2, 8, 6


def attention_model(dtype, inputs, mask=MASK, **attributes):
    given = {
        "q": (dtype, ["batch", HEADS, "seq", WIDTH]),
        "k": (dtype, ["batch", GROUPS, "past + seq", WIDTH]),
        "v": (dtype, ["batch", GROUPS, "past + seq", VALUE_WIDTH]),
        "mask": mask,
        "sinks": (dtype, [HEADS]),
    }
    item = semantic("Attention", inputs, "y", name="Attention", **{"scale": 0.3, "softcap": 0.0, **attributes})
    named = {name: given[name] for name in inputs.split() if name != "_"}
    return model_of([item], named, {"y": (dtype, ["batch", HEADS, "seq", VALUE_WIDTH])})


def values(dtype, batch=2, seq=3, total=7, seed=0):
    random = np.random.default_rng(seed)
    q = random.standard_normal((batch, HEADS, seq, WIDTH)) * 2
    k = random.standard_normal((batch, GROUPS, total, WIDTH)) * 2
    v = random.standard_normal((batch, GROUPS, total, VALUE_WIDTH))
    valid = (np.arange(total)[None] >= np.arange(batch)[:, None] * 2).astype(I64)
    allowed = mask_by_loops(valid, seq, kind_of())
    sinks = random.standard_normal(HEADS) * 2
    return [value.astype(dtype) for value in (q, k, v)], allowed, sinks.astype(dtype)


ONE = GraphDimensions(layers=1, attentions=1)


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("softcap", [0.0, 1.5])
@pytest.mark.parametrize("with_sinks", [False, True])
@pytest.mark.parametrize(("seq", "total"), [(3, 7), (1, 6), (5, 5)])
def test_attention_equals_the_reference(dtype, tolerance, softcap, with_sinks, seq, total):
    model = attention_model(dtype, "q k v mask sinks" if with_sinks else "q k v mask", softcap=softcap)
    changed, [result] = apply(model, AttentionToAttention(), dimensions=ONE)
    assert (operators(changed).count("Attention"), result.applied) == (0 if softcap else 1, 1)
    (q, k, v), allowed, sinks = values(dtype, seq=seq, total=total)
    feeds = {"q": q, "k": k, "v": v, "mask": allowed, **({"sinks": sinks} if with_sinks else {})}
    expected = softmax_attention(q, k, v, allowed, scale=0.3, softcap=softcap, sinks=sinks if with_sinks else None)
    np.testing.assert_allclose(execute(changed, **feeds)[0], expected, rtol=tolerance, atol=5 * tolerance)


def test_softcap_and_sinks_matter_to_the_reference():
    (q, k, v), allowed, sinks = values(np.float32)
    plain = softmax_attention(q, k, v, allowed, scale=0.3)
    assert np.abs(plain - softmax_attention(q, k, v, allowed, scale=0.3, softcap=1.5)).max() > 0.1
    assert np.abs(plain - softmax_attention(q, k, v, allowed, scale=0.3, sinks=sinks)).max() > 0.1


@pytest.mark.parametrize("inputs", ["q k v", "q k v _"])
@pytest.mark.parametrize("softcap", [0.0, 1.5])
def test_attention_without_a_mask(inputs, softcap):
    model = attention_model(np.float32, inputs, softcap=softcap)
    changed, _results = apply(model, AttentionToAttention(), dimensions=ONE)
    (q, k, v), _allowed, _sinks = values(np.float32)
    expected = softmax_attention(q, k, v, None, scale=0.3, softcap=softcap)
    np.testing.assert_allclose(execute(changed, q=q, k=k, v=v)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("with_sinks", [False, True])
@pytest.mark.parametrize("heads", [1, HEADS])
@pytest.mark.parametrize("softcap", [0.0, 1.5])
def test_an_additive_mask_stays_additive(dtype, tolerance, with_sinks, heads, softcap):
    kind = (dtype, ["batch", heads, "seq", "past + seq"])
    model = attention_model(dtype, "q k v mask sinks" if with_sinks else "q k v mask", kind, softcap=softcap)
    changed, _results = apply(model, AttentionToAttention(), dimensions=ONE)
    (q, k, v), _allowed, sinks = values(dtype)
    bias = np.random.default_rng(1).standard_normal((2, heads, 3, 7)).astype(dtype)
    feeds = {"q": q, "k": k, "v": v, "mask": bias, **({"sinks": sinks} if with_sinks else {})}
    given = {"scale": 0.3, "softcap": softcap, "bias": bias, "sinks": sinks if with_sinks else None}
    expected = softmax_attention(q, k, v, None, **given)
    np.testing.assert_allclose(execute(changed, **feeds)[0], expected, rtol=tolerance, atol=5 * tolerance)


def test_sinks_without_a_mask_are_a_near_miss():
    model = attention_model(np.float32, "q k v _ sinks")
    with pytest.raises(
        RuleCountError, match=r"applied 0 times\. First near miss: 'Attention', it has sinks and no mask"
    ):
        run_rules(import_graph(model), [AttentionToAttention()], ONE)
    [result] = run_rules(import_graph(model), [AttentionToAttention()], NOTHING)
    assert result.near_miss == NearMiss("Attention", "it has sinks and no mask")


@pytest.mark.parametrize("with_sinks", [False, True])
def test_mask_and_attention_together_survive_padding(with_sinks):
    """A padded query attends to itself, so nothing is NaN, and what it computes reaches no real token."""
    inputs = "q k v mask sinks" if with_sinks else "q k v mask"
    attention = semantic("Attention", inputs, "y", name="Attention", scale=0.3, softcap=0.0)
    source = attention_model(np.float32, inputs)
    given = {value.name: value for value in source.graph.input if value.name != "mask"}
    model = model_of([*mask_nodes([kind_of()])], {"valid": VALID, "ids": IDS}, {"mask0": MASK})
    model.graph.node.append(attention)
    model.graph.node[-1].input[3] = "mask0"
    model.graph.input.extend(given.values())
    model.graph.output.pop()
    model.graph.output.extend(source.graph.output)
    changed, _results = apply(model, AttentionMaskToLogic(), AttentionToAttention(), dimensions=ONE)
    (q, k, v), _allowed, sinks = values(np.float32, seq=7)
    valid = np.array([[1] * 7, [0, 0, 0, 1, 1, 1, 1]])
    feeds = {"valid": valid, "ids": np.zeros((2, 7), I64), "q": q, "k": k, "v": v}
    found = execute(changed, **feeds, **({"sinks": sinks} if with_sinks else {}))[0]
    expected = softmax_attention(
        q, k, v, mask_by_loops(valid, 7, kind_of()), scale=0.3, sinks=sinks if with_sinks else None
    )
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    v[1, :, :3] = 1e4
    changed_padding = execute(changed, **{**feeds, "v": v}, **({"sinks": sinks} if with_sinks else {}))[0]
    np.testing.assert_array_equal(changed_padding[1, :, 3:], found[1, :, 3:])
