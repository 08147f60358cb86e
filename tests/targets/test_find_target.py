"""Targets by name: the core's and those that plugins bring."""

from __future__ import annotations

import pytest

from edgellm_core.contract import Target
from edgellm_core.errors import UnknownNameError
from edgellm_core.targets import BUILT_IN, find_target
from edgellm_core.targets.onnx import OnnxTarget


class Brought(Target):
    name = "onnx"


def test_the_core_s_targets_are_found():
    assert isinstance(find_target("onnx", {}), OnnxTarget)
    assert {name: find_target(name, {}).name for name in BUILT_IN} == {name: name for name in BUILT_IN}


def test_a_target_of_a_plugin_wins():
    assert isinstance(find_target("onnx", {"onnx": Brought}), Brought)


def test_an_unknown_target_is_named():
    with pytest.raises(UnknownNameError, match=r"Unknown target 'onxn'\. Did you mean 'onnx'\?"):
        find_target("onxn", {"other": Brought})


def test_every_rule_of_a_target_has_a_name_of_its_own_and_a_first_line():
    for name in BUILT_IN:
        rules = find_target(name, {}).rules()
        assert len({rule.name for rule in rules}) == len(rules)
        assert all("→" in type(rule).__doc__.splitlines()[0] for rule in rules)
