from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from edgellm_core.runtime.errors import GraphContractError, GraphLoadError, GraphRunError
from edgellm_core.runtime.generate import left_pad
from edgellm_core.runtime.session import DecoderSession, state_output
from edgellm_core.testing.decoder_graph import DecoderShape, write_decoder_graph

PROMPTS = [[5, 17, 3, 44, 9, 21, 30], [7, 2, 40]]
TOLERANCE = {"FLOAT": 1e-5, "FLOAT16": 5e-3, "BFLOAT16": 1e-5}


@pytest.mark.parametrize("element_type", TOLERANCE)
def test_prefill_equals_the_reference(tmp_path, reference, element_type):
    weights = write_decoder_graph(tmp_path / "model.onnx", element_type=element_type)
    session = DecoderSession(tmp_path / "model.onnx")
    assert session.raised_to_float32 == (element_type == "BFLOAT16")
    batch = left_pad(PROMPTS)
    logits, states = session.run(*batch, session.initial_states(2))
    assert logits.dtype == np.float32
    expected = reference(weights, *batch)
    real = batch[1].astype(bool)
    assert relative_error(logits[real], expected[real]) < TOLERANCE[element_type]
    assert list(states) == session.state_names == [f"past_key_values.{i}.{p}" for i in (0, 1) for p in ("key", "value")]
    assert states["past_key_values.0.key"].shape() == [2, 2, 7, 8]


def relative_error(actual, expected):
    return np.abs(actual - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("split", [1, 3, 6])
def test_steps_over_the_cache_equal_one_prefill(decoder, split):
    session = DecoderSession(decoder[0], threads=1)
    input_ids, attention_mask, position_ids = left_pad(PROMPTS)
    whole, _ = session.run(input_ids, attention_mask, position_ids, session.initial_states(2))
    states = session.initial_states(2)
    parts = []
    ends = [split, *range(split + 1, input_ids.shape[1] + 1)]
    for begin, end in zip([0, *ends], ends, strict=False):
        step = slice(begin, end)
        logits, states = session.run(input_ids[:, step], attention_mask[:, :end], position_ids[:, step], states)
        parts.append(logits)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=2e-5)


def test_left_padding_does_not_change_the_answer(decoder):
    session = DecoderSession(decoder[0])
    together, _ = session.run(*left_pad(PROMPTS, pad_id=11), session.initial_states(2))
    alone, _ = session.run(*left_pad(PROMPTS[1:]), session.initial_states(1))
    np.testing.assert_allclose(together[1, -3:], alone[0], atol=2e-5)


def test_states_may_be_numpy_arrays(decoder):
    session = DecoderSession(decoder[0])
    _, states = session.run(*left_pad([[1, 2, 3]]), session.initial_states(1))
    step = (np.array([[4]]), np.ones((1, 4), np.int64), np.array([[3]]))
    expected, _ = session.run(*step, states)
    actual, _ = session.run(*step, {name: value.numpy() for name, value in states.items()})
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    ("name", "output"),
    [("past_key_values.3.key", "present.3.key"), ("past_state.0.conv", "present_state.0.conv")],
)
def test_state_output(name, output):
    assert state_output(name) == output


def save(path, nodes, inputs, outputs):
    graph = helper.make_graph(nodes, "graph", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), path)
    return path


def running_sum_graph(path, *, state_type=onnx.TensorProto.FLOAT, output="present_state.0.sum"):
    """Logits = running sum of the ids in every column; the state is a plain tensor without growing axis."""
    ids = helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["batch", 1])
    state = helper.make_tensor_value_info("past_state.0.sum", state_type, ["batch", 3])
    new = helper.make_tensor_value_info(output, state_type, ["batch", 3])
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 1, 3])
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["value"], to=state_type),
        helper.make_node("Add", ["past_state.0.sum", "value"], [output]),
        helper.make_node("Constant", [], ["axis"], value_ints=[1]),
        helper.make_node("Unsqueeze", [output, "axis"], ["row"]),
        helper.make_node("Cast", ["row"], ["logits"], to=onnx.TensorProto.FLOAT),
    ]
    return save(path, nodes, [ids, state], [logits, new])


def test_states_without_growing_axis_start_at_zero(tmp_path):
    session = DecoderSession(running_sum_graph(tmp_path / "model.onnx"))
    states = session.initial_states(2)
    assert {name: value.tolist() for name, value in states.items()} == {"past_state.0.sum": [[0.0] * 3] * 2}
    for token, total in ((1, 1), (2, 3), (3, 6)):
        ids = np.array([[token]] * 2)
        logits, states = session.run(ids, np.ones((2, 1)), ids, states)
        assert logits.tolist() == [[[total] * 3]] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": "something_else"}, r"state 'past_state\.0\.sum' has no output 'present_state\.0\.sum'"),
        ({"state_type": onnx.TensorProto.UINT32}, r"state 'past_state\.0\.sum' has the type tensor\(uint32\)"),
    ],
)
def test_graph_outside_the_contract_is_refused(tmp_path, change, message):
    path = running_sum_graph(tmp_path / "model.onnx", **change)
    with pytest.raises(GraphContractError, match=message):
        DecoderSession(path)


def test_graph_without_logits_is_refused(tmp_path):
    ids = helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["batch", "seq"])
    result = helper.make_tensor_value_info("result", onnx.TensorProto.INT64, ["batch", "seq"])
    path = save(tmp_path / "model.onnx", [helper.make_node("Neg", ["input_ids"], ["result"])], [ids], [result])
    with pytest.raises(GraphContractError, match="it has no 'logits'"):
        DecoderSession(path)


def test_broken_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(GraphLoadError, match=r"ONNX Runtime can't load .*model\.onnx: .*No such file"):
        DecoderSession(path)
    path.write_bytes(b"no protobuf at all")
    with pytest.raises(GraphLoadError, match=r"ONNX Runtime can't load .*model\.onnx: "):
        DecoderSession(path)


@pytest.mark.parametrize("element_type", ["FLOAT", "BFLOAT16"])
def test_truncated_weights_are_refused(tmp_path, element_type):
    path = tmp_path / "model.onnx"
    write_decoder_graph(path, DecoderShape(), element_type=element_type)
    data = path.with_name("model.onnx.data")
    data.write_bytes(data.read_bytes()[:-4096])
    with pytest.raises(GraphLoadError, match=r"ONNX Runtime can't load .*model\.onnx: "):
        DecoderSession(path)


def test_step_that_does_not_fit_the_states_is_refused(decoder):
    session = DecoderSession(decoder[0])
    _, states = session.run(*left_pad(PROMPTS[:1]), session.initial_states(1))
    with pytest.raises(GraphRunError, match=r"ONNX Runtime can't run .*model\.onnx: "):
        session.run(*left_pad(PROMPTS), states)


def test_loading_and_running_is_silent(tmp_path, capfd):
    for element_type in TOLERANCE:
        write_decoder_graph(tmp_path / "model.onnx", element_type=element_type)
        session = DecoderSession(tmp_path / "model.onnx")
        session.run(*left_pad(PROMPTS), session.initial_states(2))
    assert capfd.readouterr() == ("", "")
