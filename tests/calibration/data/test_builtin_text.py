"""The builtin text: two halves without a common paragraph, named with the Python that they come from."""

from __future__ import annotations

import platform
import re

import pytest

from edgellm_core.calibration.data import CalibrationDataSettings, calibration_set, held_out_set
from edgellm_core.calibration.data.builtin_text import builtin_texts
from edgellm_core.calibration.data.errors import NotEnoughTextError
from edgellm_core.errors import InvalidSettingError


def paragraphs(split):
    return [" ".join(part.split()) for text in builtin_texts(split) for part in re.split(r"\n\s*\n", text)]


def test_no_paragraph_is_on_both_sides_or_there_twice():
    calibration, held_out = paragraphs("calibration"), paragraphs("held_out")
    assert not set(calibration) & set(held_out)
    assert len(set(calibration)) == len(calibration)
    assert len(set(held_out)) == len(held_out)


def test_every_paragraph_is_on_one_side():
    from pydoc_data.topics import topics

    everything = {" ".join(part.split()) for text in topics.values() for part in re.split(r"\n\s*\n", text)} - {""}
    assert everything == set(paragraphs("calibration")) | set(paragraphs("held_out"))


def test_both_sides_are_long_enough_for_their_use():
    assert sum(map(len, builtin_texts("calibration"))) > 200_000
    assert sum(map(len, builtin_texts("held_out"))) > 50_000


def test_a_set_says_where_its_text_comes_from(tokenizer):
    found = calibration_set(CalibrationDataSettings(data="builtin", samples=8, length=64), tokenizer)
    assert found.ids.shape == (found.samples, found.length) == (8, 64)
    assert platform.python_version() in found.source
    assert held_out_set(tokenizer, samples=4, length=64).source != found.source


def test_sets_are_equal_for_equal_seeds(tokenizer):
    def digest(seed):
        settings = CalibrationDataSettings(data="builtin", samples=8, length=64, seed=seed)
        return calibration_set(settings, tokenizer).digest

    assert digest(3) == digest(3)
    assert digest(3) != digest(4)


def test_no_pad_token_is_in_a_sample(tokenizer):
    pad = tokenizer.encode("<pad>", add_special_tokens=False)[0]
    found = calibration_set(CalibrationDataSettings(data="builtin", length=256), tokenizer)
    assert found.ids.max() < pad


def test_more_than_there_is_names_what_fits(tokenizer):
    with pytest.raises(NotEnoughTextError, match=r"needs 90000 samples × 512 tokens.*--calib-samples \d+"):
        calibration_set(CalibrationDataSettings(data="builtin", samples=90_000), tokenizer)


@pytest.mark.parametrize("setting", [{"samples": 0}, {"length": 1}])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(InvalidSettingError, match="--calib-"):
        CalibrationDataSettings(**setting)
