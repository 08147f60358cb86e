"""Hidden states between layers: two tensors that take turns, in memory or in files that another process finds."""

from __future__ import annotations

import pytest
import torch

from edgellm_core.calibration import run
from edgellm_core.calibration.hidden_states import HiddenStates, hold_states
from edgellm_core.calibration.resume import Progress

CPU = torch.device("cpu")


@pytest.mark.parametrize("in_files", [True, False])
def test_a_layer_reads_what_the_one_before_it_wrote(tmp_path, in_files):
    states = HiddenStates((2, 3, 4), torch.float32, folder=tmp_path if in_files else None, device=CPU)
    states.entering(0)[...] = 1
    states.entering(1)[...] = states.entering(0) + 1
    assert states.survive == in_files
    assert states.entering(2).eq(1).all()
    assert states.entering(3).eq(2).all()
    states.remove()
    assert not list(tmp_path.iterdir())


def test_files_keep_the_states_for_another_process(tmp_path):
    first = hold_states(tmp_path, (2, 3, 4), torch.bfloat16, CPU)
    first.entering(1)[...] = 7
    again = hold_states(tmp_path, (2, 3, 4), torch.bfloat16, CPU)
    assert again.entering(1).eq(7).all()


@pytest.mark.parametrize("scheme", ["fp8", "int4_awq"])
def test_states_in_memory_are_computed_again_for_a_resumed_run(llama, ids, quantized, monkeypatch, scheme):
    whole, expected, _notes = quantized(llama, ids, scheme, work="whole")

    def in_memory(_folder, shape, dtype, device):
        return HiddenStates(shape, dtype, folder=None, device=device)

    monkeypatch.setattr(run, "hold_states", in_memory)
    kept = Progress.add

    def stopping(self, record):
        kept(self, record)
        msg = "stopped after a layer"
        raise RuntimeError(msg)

    with monkeypatch.context() as stopped:
        stopped.setattr(Progress, "add", stopping)
        with pytest.raises(RuntimeError, match="stopped after a layer"):
            quantized(llama, ids, scheme)
    resumed, ours, notes = quantized(llama, ids, scheme)
    assert any(note.startswith("Going on after layer 1 of") for note in notes)
    assert set(ours) == set(expected)
    assert {path.name for path in resumed.iterdir()} == {path.name for path in whole.iterdir()}
    for path in whole.iterdir():
        assert path.read_bytes() == (resumed / path.name).read_bytes()
