"""Which family a checkpoint gets, and why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm_core.errors import UnknownNameError
from edgellm_core.host import PluginHost
from edgellm_core.host.errors import UnknownResolvedFamilyError
from edgellm_core.testing.plugin_files import write_plugin

SELECTIONS = {
    "architectures": (
        {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
        "llama",
        "architectures says 'LlamaForCausalLM', which plugin 'llama' claims",
    ),
    "architectures decides": (
        {"architectures": ["LlamaForCausalLM"], "model_type": "qwen2"},
        "llama",
        (
            "architectures says 'LlamaForCausalLM', which plugin 'llama' claims; "
            "it decides over model_type 'qwen2', which plugin 'qwen2' claims"
        ),
    ),
    "model_type": ({"model_type": "qwen3"}, "qwen3", "model_type says 'qwen3', which plugin 'qwen3' claims"),
    "unclaimed architecture": (
        {"architectures": ["MyForCausalLM"], "model_type": "qwen3"},
        "qwen3",
        "model_type says 'qwen3', which plugin 'qwen3' claims; nobody claims 'MyForCausalLM'",
    ),
    "second architecture": (
        {"architectures": ["MyForCausalLM", "Qwen2ForCausalLM"]},
        "qwen2",
        "architectures says 'Qwen2ForCausalLM', which plugin 'qwen2' claims",
    ),
    "generic": (
        {"architectures": ["MyForCausalLM"], "model_type": "my"},
        "generic",
        "no plugin claims 'MyForCausalLM', 'my'",
    ),
    "nothing": ({"architectures": None}, "generic", "config.json has neither architectures nor model_type"),
    "exactly": ({"model_type": "Llama"}, "generic", "no plugin claims 'Llama'"),
}


@pytest.mark.parametrize(("config", "family", "reason"), SELECTIONS.values(), ids=SELECTIONS)
def test_selection_follows_the_claims_and_says_why(config, family, reason, load):
    selection = load().select(config)
    assert (selection.family.name, selection.reason) == (family, reason)
    assert family in selection.plugin.families


names = st.sampled_from(["llama", "LlamaForCausalLM", "Qwen3ForCausalLM", "qwen", "", "ForCausalLM"])
scalars = st.none() | st.booleans() | st.integers(-2, 2) | names
json_values = scalars | st.lists(scalars | st.lists(scalars, max_size=2), max_size=3) | st.dictionaries(names, scalars)
HOST = PluginHost.load(environ={})


@given(st.fixed_dictionaries({}, optional={"architectures": json_values, "model_type": json_values}))
def test_any_config_has_a_family_and_nearest_names_exist(config):
    assert HOST.select(config).family.name in HOST.family_names()
    assert set(HOST.nearest(config)) <= set(HOST.family_names())


def test_a_forced_family_wins_over_the_claims(load):
    assert load().select({"model_type": "llama"}, forced="qwen3").family.name == "qwen3"
    assert load().select({"model_type": "llama"}, forced="generic").family.name == "generic"


def test_forcing_an_unknown_family_suggests_one(load):
    with pytest.raises(UnknownNameError, match=r"Unknown family 'qwn3'\. Did you mean 'qwen3'"):
        load().select({}, forced="qwn3")


@pytest.mark.parametrize(
    ("config", "nearest"),
    [
        ({"model_type": "llama4", "architectures": ["Llama4ForCausalLM"]}, ["llama"]),
        ({"model_type": "qwen3_next"}, ["qwen3"]),
        ({"model_type": "qwen"}, ["qwen2", "qwen3"]),
        ({"architectures": ["xLSTMForCausalLM"]}, []),  # shares only the suffix ForCausalLM
        ({}, []),
    ],
    ids=["llama4", "qwen3_next", "qwen", "suffix", "empty"],
)
def test_nearest_families_of_an_unclaimed_config(config, nearest, load):
    assert load(EDGELLM_PLUGINS="llama,qwen2,qwen3").nearest(config) == nearest


RESOLVE = "@hookimpl\ndef edgellm_resolve_family(config, directory):\n    {body}\n"


def test_a_plugin_resolves_an_odd_checkpoint_before_the_claims(tmp_path, load):
    body = RESOLVE.format(body="return 'qwen3' if (directory / 'odd').exists() else None")
    host = load(write_plugin(tmp_path, "odd", body))
    assert host.select({"model_type": "llama"}, directory=tmp_path).family.name == "llama"
    (tmp_path / "odd").touch()
    selection = host.select({"model_type": "llama"}, directory=tmp_path)
    assert (selection.family.name, selection.plugin.name) == ("qwen3", "qwen3")
    assert selection.reason == "plugin 'odd' resolves this checkpoint to family 'qwen3'"


def test_the_first_answer_decides_and_later_plugins_are_asked_first(tmp_path, load):
    write_plugin(tmp_path, "a", RESOLVE.format(body="raise RuntimeError('never asked')"))
    write_plugin(tmp_path, "b", RESOLVE.format(body="return 'qwen2'"))
    write_plugin(tmp_path, "c", RESOLVE.format(body="return None"))
    assert load(tmp_path).resolve_family({}) == ("b", "qwen2")


def test_resolving_to_a_family_that_is_not_there_names_the_plugin(tmp_path, load):
    host = load(write_plugin(tmp_path, "odd", RESOLVE.format(body="return 'none_such'")))
    with pytest.raises(UnknownResolvedFamilyError, match="Plugin 'odd' resolves the checkpoint to family 'none_such'"):
        host.select({})
