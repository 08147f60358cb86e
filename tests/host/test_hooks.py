"""Hooks: what the host asks of plugins during a build, and the specifications themselves."""

from __future__ import annotations

import inspect
import sys

import pytest

from edgellm_core import hookspecs
from edgellm_core.errors import PluginError
from edgellm_core.host.errors import HookFailedError, HookResultError
from edgellm_core.testing.plugin_files import write_plugin

STAGES = """
calls = []

@hookimpl
def edgellm_before_stage(stage, settings):
    calls.append(("before", stage, settings["precision"]))

@hookimpl
def edgellm_after_stage(stage, seconds):
    calls.append(("after", stage, seconds))

@hookimpl
def edgellm_stage_failed(stage, error):
    calls.append(("failed", stage, str(error)))
"""


def test_stage_hooks_are_told(tmp_path, load):
    path = write_plugin(tmp_path, "watcher", STAGES)
    host = load(path)
    settings = {"precision": "fp16"}
    host.before_stage("trace", settings)
    host.after_stage("trace", settings, 1.5)
    host.stage_failed("bind", settings, ValueError("full disk"))
    module = next(module for module in sys.modules.values() if getattr(module, "__file__", None) == str(path))
    assert module.calls == [("before", "trace", "fp16"), ("after", "trace", 1.5), ("failed", "bind", "full disk")]


@pytest.mark.parametrize(
    ("hook", "call"),
    [
        ("edgellm_before_stage", lambda host: host.before_stage("trace", {})),
        ("edgellm_after_stage", lambda host: host.after_stage("trace", {}, 1.0)),
        ("edgellm_stage_failed", lambda host: host.stage_failed("trace", {}, ValueError())),
        ("edgellm_resolve_family", lambda host: host.select({})),
        ("edgellm_register_rules", lambda host: host.rules()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_hook_that_fails_during_a_build_names_its_plugin(tmp_path, hook, call, load):
    host = load(write_plugin(tmp_path, "bad", f"@hookimpl\ndef {hook}(): raise ValueError('no colour')"))
    with pytest.raises(HookFailedError, match=f"Plugin 'bad' failed in {hook}: ValueError: no colour") as caught:
        call(host)
    assert isinstance(caught.value, PluginError)
    assert isinstance(caught.value.__cause__, ValueError)


def test_what_plugins_register_is_collected(tmp_path, load):
    body = '''
import click

class Board(Target):
    name = "board"

@hookimpl
def edgellm_register_targets(): return [Board]

class Int4RoundToNearest(QuantizationScheme):
    name = "int4_rtn"

@hookimpl
def edgellm_register_schemes(): return [Int4RoundToNearest]

@hookimpl
def edgellm_register_commands(): return [click.Command("flash")]

class Notes(CalibrationData):
    name = "notes"
    def texts(self): yield "some text"

@hookimpl
def edgellm_register_calibration_data(): return [Notes]

@hookimpl
def edgellm_register_rules():
    from edgellm_core.surgery.rule import Rule

    class DropCopies(Rule):
        """Drop nothing."""
        def match(self, node, graph): return False
        def rewrite(self, node, edit): raise NotImplementedError

    return [DropCopies()]
'''
    host = load(write_plugin(tmp_path, "board", body))
    assert [(name, target.name) for name, target in host.targets().items()] == [("board", "board")]
    assert [(name, scheme.name) for name, scheme in host.schemes().items()] == [("int4_rtn", "int4_rtn")]
    assert [(name, command.name) for name, command in host.commands().items()] == [("flash", "flash")]
    assert [(name, list(data().texts())) for name, data in host.calibration_data().items()] == [
        ("notes", ["some text"])
    ]
    assert [type(rule).__name__ for rule in host.rules()] == ["DropCopies"]
    assert load().rules() == []


CALIBRATION_DATA = """
class Data(CalibrationData):
    name = {name!r}

@hookimpl
def edgellm_register_calibration_data(): return [Data]
"""


def test_calibration_data_of_the_later_route_wins(tmp_path, load, entry_points, record_of):
    entry_points("early", CALIBRATION_DATA.format(name="notes"))
    host = load(write_plugin(tmp_path, "late", CALIBRATION_DATA.format(name="notes")))
    assert host.calibration_data()["notes"].__module__.startswith("edgellm_path_")
    assert record_of(host, "early", "entry point").status == "overridden"
    assert record_of(host, "late").notes == ("takes calibration data 'notes' from plugin 'early' (entry point)",)


@pytest.mark.parametrize("name", ["builtin", "cnn_dailymail", "wikitext"])
def test_calibration_data_of_the_core_can_not_be_taken(tmp_path, load, record_of, name):
    host = load(write_plugin(tmp_path, "bad", CALIBRATION_DATA.format(name=name)))
    assert f"claims calibration data '{name}', which plugin 'edgellm' (core) claims" in record_of(host, "bad").error
    assert host.calibration_data() == {}


def test_calibration_data_of_two_plugins_of_one_route_clash(tmp_path, load, record_of):
    first = write_plugin(tmp_path / "a", "first", CALIBRATION_DATA.format(name="notes"))
    host = load(first, write_plugin(tmp_path / "b", "second", CALIBRATION_DATA.format(name="notes")))
    assert "Plugin 'second' claims calibration data 'notes'" in record_of(host, "second").error


def test_calibration_data_without_a_name_is_refused(tmp_path, load, record_of):
    host = load(write_plugin(tmp_path, "bad", CALIBRATION_DATA.format(name="")))
    assert "must return a sequence of CalibrationData subclasses with a name" in record_of(host, "bad").error


def test_a_rule_class_in_place_of_an_instance_is_refused(tmp_path, load):
    body = "@hookimpl\ndef edgellm_register_rules():\n    from edgellm_core.surgery.rule import Rule\n    return [Rule]"
    host = load(write_plugin(tmp_path, "bad", body))
    with pytest.raises(HookResultError, match="edgellm_register_rules must return a sequence of Rule instances"):
        host.rules()


def test_trace_prints_every_hook_call(tmp_path, capsys, load):
    host = load(write_plugin(tmp_path, "watcher", STAGES), EDGELLM_TRACE="1")
    host.before_stage("trace", {"precision": "fp16"})
    with pytest.raises(HookFailedError, match="watcher"):
        host.before_stage("trace", {})
    lines = capsys.readouterr().err.splitlines()
    assert "edgellm_register_families() in in-tree:llama" in lines
    assert "edgellm_before_stage(stage='trace', settings={'precision': 'fp16'}) in path:watcher" in lines
    assert "edgellm_before_stage → KeyError('precision')" in lines


def test_without_trace_nothing_is_printed(capsys, load):
    load()
    assert capsys.readouterr() == ("", "")


def hooks():
    return {name: value for name, value in vars(hookspecs).items() if name.startswith("edgellm_")}


def test_there_are_at_most_ten_hooks():
    assert 0 < len(hooks()) <= 10


@pytest.mark.parametrize("hook", hooks())
def test_every_hook_is_documented_typed_and_called_by_the_host(hook):
    function = hooks()[hook]
    signature = inspect.signature(function)
    assert function.__doc__
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(parameter.annotation is not inspect.Parameter.empty for parameter in signature.parameters.values())
    assert all(f"{name}:" in function.__doc__ for name in signature.parameters)
    assert f'"{hook}"' in inspect.getsource(sys.modules["edgellm_core.host.plugin_host"])
