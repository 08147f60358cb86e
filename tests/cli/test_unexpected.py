"""What nothing foresaw: one sentence with the stage, exit code 70, and the traceback on request."""

from __future__ import annotations

import json
import sys

import pytest

import edgellm_core.tracing.configuration
from edgellm_core.cli import COMMANDS, EXIT_DEFECT, edgellm, main
from edgellm_core.errors import EdgellmError, sentence_of
from edgellm_core.events import stage_events
from edgellm_core.testing.checkpoints import write_tiny_checkpoint
from tests.cli.test_bad_input import LLAMA

SENTENCE = "Stage 'trace' ended unexpectedly with ZeroDivisionError: nobody saw this. This is a defect of edgellm"


@pytest.fixture
def broken_build(tmp_path, monkeypatch, capsys):
    """Return the function that runs a build whose trace breaks, and returns exit code, output and errors."""
    source = write_tiny_checkpoint(tmp_path / "llama", LLAMA)

    def breaks(*_arguments, **_named):
        msg = "nobody saw\nthis"
        raise ZeroDivisionError(msg)

    monkeypatch.setattr(edgellm_core.tracing.configuration, "load_config", breaks)

    def run(*options):
        out = tmp_path / "out"
        monkeypatch.setattr(
            sys, "argv", ["edgellm", "build", str(source), "-o", str(out), "--engine", "none", *options]
        )
        with pytest.raises(SystemExit) as stop:
            main()
        assert not out.exists()
        return stop.value.code, *capsys.readouterr()

    return run


def test_a_defect_is_one_sentence_with_its_stage(broken_build):
    code, _output, errors = broken_build("--no-cache")
    assert code == EXIT_DEFECT == 70
    assert f"Error: {SENTENCE}" in errors
    assert "Traceback" not in errors


def test_the_traceback_is_shown_on_request(broken_build):
    code, _output, errors = broken_build("--no-cache", "-v")
    assert code == EXIT_DEFECT
    assert "Traceback" in errors
    assert f"Error: {SENTENCE}" in errors


def test_a_defect_is_told_in_json(broken_build):
    code, output, errors = broken_build("--no-cache", "--json")
    assert code == EXIT_DEFECT
    last = json.loads(output.splitlines()[-1])
    assert (last["stage"], last["event"]) == ("trace", "failed")
    assert last["message"].startswith(SENTENCE)
    assert "Traceback" not in output + errors


def test_an_error_of_ours_shows_its_traceback_on_request_too(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["edgellm", "detect", str(tmp_path), "-v"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_it(command):
    def leaves(found):
        return (
            [leaf for child in found.commands.values() for leaf in leaves(child)]
            if hasattr(found, "commands")
            else [found]
        )

    for leaf in leaves(edgellm.get_command(None, command)):
        assert any("-v" in parameter.opts for parameter in leaf.params), leaf.name


@pytest.mark.parametrize(("error", "sentence"), [
    (EdgellmError("Ours."), "Ours."),
    (KeyboardInterrupt(), "Stopped."),
    (MemoryError(), "edgellm detect ended unexpectedly with MemoryError. This is a defect"),
    (ValueError("x" * 2000), f"ValueError: {'x' * 500}. This"),
])  # fmt: skip
def test_sentences(error, sentence):
    assert sentence in sentence_of(error, "edgellm detect")


def test_the_inner_stage_is_named():
    def nested():
        with stage_events("outer"), stage_events("inner"):
            int("odd")

    with pytest.raises(ValueError, match="odd") as raised:
        nested()
    assert sentence_of(raised.value).startswith("Stage 'inner' ended unexpectedly with ValueError: invalid literal")
