"""Where float32 itself is farther from float64 than the tolerance, float64 judges; nothing else is let through."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgellm_core.verification.errors import VerificationFailedError
from edgellm_core.verification.exact_original import _error
from edgellm_core.verification.rounding_noise import FACTOR, LARGEST
from edgellm_core.verification.tolerances import TOLERANCES
from tests.large_scores import write_large_scores


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    write_large_scores(folder / "checkpoint")
    return folder


@pytest.fixture(scope="module")
def exports(large, export_checkpoint):
    made = {}

    def make(precision):
        if precision not in made:
            made[precision] = export_checkpoint(large / "checkpoint", large / precision, precision)
        return made[precision]

    return make


def change(exported, edit):
    model = onnx.load(exported.model, load_external_data=False)
    count = sum(edit(tensor) for tensor in (*model.graph.initializer, *constants(model.graph)))
    assert count
    onnx.save(model, exported.model)
    return exported


def constants(graph):
    return [a.t for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.TENSOR]


def round_frequencies(tensor):
    """Round the inverse frequencies of RoPE to float16: off by 2⁻¹² of themselves."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return False
    values = numpy_helper.to_array(tensor)
    if values.dtype != np.float32 or values.size != 32 or values.max() != 1:
        return False
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16).astype(np.float32), tensor.name))
    return True


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_scores_beyond_float32_pass_and_it_is_said(exports, precision, monkeypatch):
    notes = []
    monkeypatch.setitem(TOLERANCES, precision, 2e-5)  # less than float32's rounding on any CPU
    result = exports(precision).verify(notes=notes)
    [said] = [note for note in notes if "float64" in note]
    assert f"to within {result.tolerance:.2g}" in said
    assert 2e-5 < result.tolerance <= LARGEST
    assert result.max_rel_err <= result.tolerance
    assert "float64 judged" in result.record().reference


def test_a_wrong_table_is_refused_all_the_same(exports, tmp_path):
    with pytest.raises(VerificationFailedError, match="max_rel_err"):
        change(exports("fp32").copy(tmp_path / "copy"), round_frequencies).verify()


def test_a_stated_tolerance_is_meant_as_it_is(exports):
    with pytest.raises(VerificationFailedError, match="exceeds the tolerance 2e-05"):
        exports("fp32").verify(tolerance=2e-5)


def scale_first_norm(exported, factor):
    """Scale the weights of the first norm, so that the logits move by a little."""
    model = onnx.load(exported.model, load_external_data=False)
    node = next(node for node in model.graph.node if node.op_type == "RMSNormalization")
    tensor = next(one for one in model.graph.initializer if one.name == node.input[1])
    entry = {item.key: item.value for item in tensor.external_data}
    data = np.memmap(
        exported.model.parent / entry["location"], np.float32, "r+", int(entry["offset"]), tuple(tensor.dims)
    )
    data *= np.float32(factor)
    data.flush()
    return exported


def test_a_small_error_of_an_exact_model_is_no_rounding(exported, tmp_path):
    notes = []
    copy = scale_first_norm(exported("llama").copy(tmp_path / "copy"), 1.0002)
    with pytest.raises(VerificationFailedError, match=r"max_rel_err 0\.000\d+ exceeds the tolerance 0\.0001"):
        copy.verify(notes=notes)
    assert not [note for note in notes if "float64" in note]


def test_each_token_has_its_own_scale():
    wanted = [np.array([[1.0, 0.5], [100.0, 50.0]], np.float32)]
    assert _error(wanted, [wanted[0] + np.float32(0.5)]) == pytest.approx(0.5)
    assert FACTOR >= 1
