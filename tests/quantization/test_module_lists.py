"""How lists of modules are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellm_core.quantization.errors import ContradictoryQuantizationError
from edgellm_core.quantization.module_lists import by_boundary, by_name, by_wildcard, require_unlisted

MODULE = "model.layers.1.mlp.gate_proj"


@pytest.mark.parametrize(("matches", "entry", "wanted"), [
    (by_boundary, "gate", False), (by_boundary, "mlp", True), (by_boundary, "model.layers.1", True),
    (by_boundary, "model.layers.11", False), (by_boundary, "mlp.gate_proj", True),
    (by_boundary, "model.layers.*", True),
    (by_name, "gate_proj", False), (by_name, MODULE, True), (by_name, "re:.*gate_proj", True),
    (by_name, "re:gate_proj", False), (by_name, "re:model\\.layers\\.1\\..*", True),
    (by_wildcard, "model.layers.1*", True), (by_wildcard, "lm_head", False), (by_wildcard, "*.mlp.*", True),
    (by_wildcard, "gate_proj", False),
])  # fmt: skip
def test_entries_are_read_as_their_tools_read_them(matches, entry, wanted):
    assert matches(entry, MODULE) is wanted


@pytest.mark.parametrize(("entries", "named"), [
    ("lm_head", "'ignore' must be a list of names and is 'lm_head'"),
    ([1], "'ignore' must be a list of names"),
    (["re:("], "ignore has 're:\\(', which is no regular expression"),
    (["lm_head", MODULE], "ignore leaves 'model.layers.1.mlp.gate_proj' unquantized"),
])  # fmt: skip
def test_what_contradicts_is_named(entries, named):
    with pytest.raises(ContradictoryQuantizationError, match=named):
        require_unlisted(Path("somewhere"), "ignore", entries, [MODULE], by_name)


@pytest.mark.parametrize("entries", [None, [], ["lm_head"]])
def test_other_layers_may_be_listed(entries):
    require_unlisted(Path("somewhere"), "ignore", entries, [MODULE], by_name)
