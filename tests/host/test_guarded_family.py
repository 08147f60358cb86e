"""A method of a family that raises or returns something odd is one sentence, whichever method it is."""

from __future__ import annotations

import inspect

import pytest

from edgellm_core.contract import AttentionAttributes, ModelFamily
from edgellm_core.errors import PluginError, Stopped
from edgellm_core.host.guarded_family import RESULTS
from edgellm_core.testing.plugin_files import family_source, write_plugin

ARGUMENTS = {
    "attention_attributes": (None, AttentionAttributes(scale=1.0)),
    "prepare_config": (None,),
    "complete_gguf_config": ({}, None),
}


@pytest.fixture
def family(tmp_path, load):
    """Return a function that makes a family of which one method has a body."""

    def make(method, body):
        method_source = f"    def {method}(self, *arguments):\n        {body}\n"
        write_plugin(tmp_path, "odd", family_source("odd").replace("\n@hookimpl", method_source + "\n@hookimpl"))
        return load(tmp_path).select({}, forced="odd").family

    return make


def test_every_method_of_the_contract_is_guarded():
    methods = {name for name, value in vars(ModelFamily).items() if inspect.isfunction(value) and name[0] != "_"}
    assert methods == set(RESULTS)


@pytest.mark.parametrize("method", RESULTS)
def test_what_it_raises_is_told_with_plugin_family_and_method(method, family):
    odd = family(method, "raise ZeroDivisionError('a / b')")
    expected = rf"Plugin 'odd' failed in {method}\(\) of family 'odd': ZeroDivisionError: a / b"
    with pytest.raises(PluginError, match=expected):
        getattr(odd, method)(*ARGUMENTS.get(method, ()))


@pytest.mark.parametrize("method", RESULTS)
def test_what_it_returns_is_checked(method, family):
    odd = family(method, "return 3.5")
    with pytest.raises(PluginError, match=rf"Plugin 'odd': {method}\(\) of family 'odd' must return .*; got 3\.5"):
        getattr(odd, method)(*ARGUMENTS.get(method, ()))


def test_a_sentence_for_the_user_passes(family):
    odd = family("tiny_config", "from edgellm_core.errors import UserError; raise UserError('Give a larger model.')")
    with pytest.raises(Exception, match=r"^Give a larger model\.$"):
        odd.tiny_config()


def test_a_method_that_exits_does_not_end_the_process(family):
    odd = family("rules", "raise SystemExit(0)")
    with pytest.raises(PluginError, match="SystemExit: 0"):
        odd.rules()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise type('Odd', (BaseException,), {})('a / b')", "Odd: a / b"),
        ("raise GeneratorExit('a / b')", "GeneratorExit: a / b"),
        (
            "raise type('Mute', (Exception,), {'__str__': lambda self: exit(3)})",
            r"Mute \(whose message can't be made\)",
        ),
    ],
    ids=["base", "generator", "message"],
)
def test_whatever_it_raises_is_told(body, told, family):
    with pytest.raises(PluginError, match=rf"Plugin 'odd' failed in rules\(\) of family 'odd': {told}"):
        family("rules", body).rules()


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Stopped(15)], ids=["ctrl-c", "sigterm"])
def test_what_asks_the_process_to_end_passes(stop, family, monkeypatch):
    monkeypatch.setattr("builtins.stop_of_the_test", stop, raising=False)
    with pytest.raises(type(stop), match=r"^(15)?$"):
        family("rules", "raise stop_of_the_test").rules()
