"""What the tests of commands share."""

from __future__ import annotations

import sys

import pytest

from edgellm_core.cli import main


@pytest.fixture
def fails(monkeypatch, capsys):
    """Return the function that runs the command line and returns the one message that it prints."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["edgellm", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 1
        output = capsys.readouterr()
        assert "Traceback" not in output.err + output.out
        lines = [line for line in output.err.splitlines() if line.startswith("Error: ")]
        assert len(lines) == 1
        return lines[0]

    return run
