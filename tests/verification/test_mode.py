"""Which comparison fits the memory."""

from __future__ import annotations

import pytest

from edgellm_core.errors import UnknownNameError
from edgellm_core.events import Reporter
from edgellm_core.verification.mode import choose_mode
from edgellm_core.verification.tolerances import LOCAL_NOISE, QUANTIZED, TOLERANCES, tolerance_of


def choose(export, requested, max_memory=None):
    notes = []
    report = Reporter("verify", lambda event: notes.append(event.message))
    return choose_mode(requested, export.checkpoint, "fp16", max_memory=max_memory, report=report), notes


@pytest.mark.parametrize(
    ("requested", "max_memory", "mode", "note"),
    [
        ("auto", 1 << 30, "full", "Comparing the whole model, which takes up to 0.7 GiB of 1.0 GiB allowed."),
        ("auto", 1 << 29, "layers", "first layers and the head only, since the whole model takes up to 0.7 GiB of 0.5"),
        ("auto", None, "full", "free."),
        ("full", 1, "full", None),
        ("layers", None, "layers", None),
        ("off", None, "off", None),
    ],
)
def test_the_budget_decides_auto_and_says_so(exported, requested, max_memory, mode, note):
    chosen, notes = choose(exported("llama"), requested, max_memory)
    assert chosen == mode
    assert (note is None and not notes) or note in notes[0]


def test_an_unknown_mode_is_refused(exported):
    with pytest.raises(UnknownNameError, match=r"Unknown verification mode 'fulll'\. Did you mean 'full'\?"):
        choose(exported("llama"), "fulll")


def test_every_precision_has_a_tolerance_and_the_demanded_ones_hold():
    assert TOLERANCES.keys() == LOCAL_NOISE.keys() == {"fp32", "fp16", "bf16", QUANTIZED}
    assert tolerance_of("fp16") <= 1e-4
    assert tolerance_of("bf16") <= 1e-4
    assert tolerance_of("fp32") <= 1e-4
    assert tolerance_of(QUANTIZED) <= 1e-4
    with pytest.raises(UnknownNameError, match="Unknown precision 'fp8'"):
        tolerance_of("fp8")
