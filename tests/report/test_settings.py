"""Settings of a comparison: checked at once, and fitted to each precision."""

from __future__ import annotations

import pytest

from edgellm_core.errors import InvalidSettingError, UnknownNameError
from edgellm_core.report.settings import CompareSettings


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"precisions": ()}, InvalidSettingError, "--precision must list precisions, each once; got none"),
        ({"precisions": ("fp16", "fp16")}, InvalidSettingError, "each once; got fp16,fp16"),
        ({"precisions": ("fp16", "fp9")}, UnknownNameError, "Unknown precision 'fp9'"),
        ({"precisions": ("fp16",), "max_new_tokens": 0}, InvalidSettingError, "--max-new-tokens must be at least 1"),
        ({"precisions": ("fp16",), "build": {"verify": "most"}}, UnknownNameError, "verification mode 'most'"),
    ],
)
def test_what_can_not_work_is_refused_at_once(settings, error, message):
    with pytest.raises(error, match=message):
        CompareSettings(**settings)


def test_settings_of_quantizations_reach_quantizations_only():
    options = {"group_size": 64, "skip": ("model.layers.0.*",), "lm_head": "fp8", "calib_samples": 8}
    settings = CompareSettings(precisions=("fp16", "fp8", "int4_awq", "nvfp4"), build=options)
    plain, fp8, int4, nvfp4 = map(settings.build_settings, settings.precisions)
    assert (plain.group_size, plain.skip, plain.lm_head) == (None, (), None)
    assert (fp8.group_size, fp8.skip, fp8.lm_head, fp8.calib_samples) == (None, ("model.layers.0.*",), "fp8", 8)
    assert (int4.group_size, nvfp4.group_size) == (64, None)
    assert {one.quality for one in (plain, fp8, int4, nvfp4)} == {"off"}
