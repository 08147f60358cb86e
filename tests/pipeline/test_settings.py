"""Settings of a build: which precisions there are, and what the rest of a quantized graph computes in."""

from __future__ import annotations

import pytest

from edgellm_core.errors import UnknownNameError
from edgellm_core.pipeline.settings import BuildSettings
from edgellm_core.testing.plugin_files import write_plugin

OWN_SCHEME = """
class Int4RoundToNearest(QuantizationScheme):
    name = "int4_rtn"

@hookimpl
def edgellm_register_schemes(): return [Int4RoundToNearest]
"""


@pytest.mark.parametrize(
    ("precision", "computed"),
    [("fp16", "fp16"), ("bf16", "bf16"), ("fp32", "fp32"), ("fp8", "fp16"), ("int4_awq", "fp16"), ("nvfp4", "fp16")],
)
def test_a_scheme_leaves_the_rest_in_fp16(precision, computed):
    assert BuildSettings(precision=precision).compute_precision == computed


def test_a_scheme_of_a_plugin_is_a_precision(tmp_path):
    path = write_plugin(tmp_path, "rtn", OWN_SCHEME)
    assert BuildSettings(precision="int4_rtn", plugin_paths=(path,)).compute_precision == "fp16"
    with pytest.raises(UnknownNameError, match="Unknown precision 'int4_rtn'"):
        BuildSettings(precision="int4_rtn")


def test_an_unknown_precision_suggests_a_scheme():
    with pytest.raises(UnknownNameError, match=r"Unknown precision 'int4awq'. Did you mean 'int4_awq'\?"):
        BuildSettings(precision="int4awq")


def test_settings_of_other_stages_do_not_decide_a_quantization():
    settings = BuildSettings(precision="int4_awq", calib_samples=8)
    assert (
        settings.decisive() == BuildSettings(precision="int4_awq", calib_samples=8, max_kl=0.1, force=True).decisive()
    )
    assert settings.decisive() != BuildSettings(precision="int4_awq", calib_samples=9).decisive()
