"""Whatever a plugin does while it is imported or asked is its own failure, with its name."""

from __future__ import annotations

import re
import sys

import pytest

from edgellm_core.errors import PluginError
from edgellm_core.host import PluginHost, foreign_code
from edgellm_core.host.errors import HookFailedError
from edgellm_core.testing.plugin_files import write_plugin

UNSHOWN = "class Odd(BaseException):\n    def __str__(self): raise ValueError\n"
ENDS = {
    "base exception": ("class Odd(BaseException): pass\nraise Odd('x')", "Odd: x"),
    "generator exit": ("raise GeneratorExit", r"GeneratorExit\(\)"),
    "no message": (f"{UNSHOWN}raise Odd", r"Odd \(whose message can't be made\)"),
    "long message": ("raise ValueError('x' * 10**7)", "ValueError: x{300}"),
    "os._exit": ("import os\nos._exit(0)", "SystemExit: 0"),
    "recursion": ("def f(): f()\nf()", "RecursionError"),
}


@pytest.mark.parametrize("name", ENDS)
def test_an_import_that_ends_oddly_is_recorded(tmp_path, load, record_of, name):
    body, said = ENDS[name]
    host = load(write_plugin(tmp_path, "odd", body))
    assert re.search(f"^Plugin 'odd' can't be imported: {said}", record_of(host, "odd").error)
    assert len(record_of(host, "odd").error) < 1000


@pytest.mark.parametrize("name", ["base exception", "no message", "os._exit"])
def test_a_hook_that_ends_oddly_is_an_error(tmp_path, load, name):
    body, said = ENDS[name]
    *before, last = body.splitlines()
    hook = "\n".join([*before, "@hookimpl", "def edgellm_before_stage(stage, settings):", f"    {last}"])
    if before[:1] == ["import os"]:
        hook = hook.replace("os._exit", "__import__('os')._exit")
    host = load(write_plugin(tmp_path, "odd", hook))
    with pytest.raises(HookFailedError, match=f"Plugin 'odd' failed in edgellm_before_stage: {said}"):
        host.before_stage("trace", {})


def test_what_a_plugin_prints_is_no_output(tmp_path, load, capsys):
    body = "print('at import')\n@hookimpl\ndef edgellm_before_stage(stage, settings): print('in a hook')"
    load(write_plugin(tmp_path, "loud", body)).before_stage("trace", {})
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "at import\nin a hook\n" in printed.err


def test_a_slow_import_is_named(tmp_path, load, capsys, monkeypatch):
    monkeypatch.setattr(foreign_code, "PATIENCE", 0.05)
    load(write_plugin(tmp_path, "slow", "import time\ntime.sleep(1)"))
    assert "Plugin 'slow' has been importing for 0.05 s. If it does not end" in capsys.readouterr().err


def test_a_plugin_that_was_named_must_load(tmp_path):
    path = write_plugin(tmp_path, "odd", "raise ValueError('x')")
    with pytest.raises(PluginError, match="Plugin 'odd' can't be imported: ValueError: x"):
        PluginHost.load([path], {})
    listed = PluginHost.load([], {"EDGELLM_PLUGIN_PATH": str(path)}).records
    assert [record.status for record in listed if record.name == "odd"] == ["skipped"]
    PluginHost.load([path], {"EDGELLM_PLUGINS": ""})


def test_ctrl_c_is_no_failure_of_a_plugin(tmp_path, load):
    with pytest.raises(KeyboardInterrupt):
        load(write_plugin(tmp_path, "odd", "raise KeyboardInterrupt"))
    assert "odd" not in sys.modules
