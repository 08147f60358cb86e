"""The installed command: it ends the process at once, with the right code and everything printed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("edgellm")


@pytest.mark.parametrize(
    ("arguments", "code", "printed"),
    [
        (["--help"], 0, "build"),
        (["no-such-command"], 1, "Available: build, bundle, compare, detect"),
        (["detect", "no/such/model/at-all"], 1, "Error: "),
        (["detect", "--no-such-option"], 2, "No such option"),
        (["detect", "one", "two"], 2, "unexpected extra argument"),
        (["detect"], 2, "Missing argument"),
    ],
)
def test_exit_code_and_output(arguments, code, printed):
    result = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == code
    assert printed in result.stdout + result.stderr
