"""The tutorial "Your first pack": its commands run in order, and print what it says they print."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from edgellm_core.cli.plugins_test import kit_plugin_name

pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[1] / "docs" / "tutorial" / "your-first-pack.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
COMMANDS = "".join(block for language, block in BLOCKS if language == "sh")
SAID = [line for language, block in BLOCKS if language == "text" for line in block.splitlines()]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Return the variables of a shell in a new virtual environment with edgellm, pytest and pip.

    It sees this one's packages, so that nothing is downloaded. Its commands start the real ones.
    """
    root = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(root, symlinks=True, with_pip=False)
    python, bin_folder = root / "bin" / "python", root / "bin"
    paths = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    ours = sysconfig.get_paths()["purelib"]
    # addsitedir and not a bare path: it also reads the .pth file of an editable install of edgellm.
    Path(paths.stdout.strip(), "outer.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    commands = {
        "edgellm": f"{python} -c 'from edgellm_core.cli import main; main()'",
        "pytest": f"{python} -m pytest -p {kit_plugin_name()}",
        "pip": f"{sys.executable} -m pip --python {python}",
    }
    for name, command in commands.items():
        script = bin_folder / name
        script.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        script.chmod(0o755)
    others = {name: value for name, value in os.environ.items() if not name.startswith("EDGELLM_PLUGIN")}
    # 0, because pip takes this variable as the value of "build isolation" (pypa/pip#5735).
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "COLUMNS": "200"}
    return {**others, **offline, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def output(environment, tmp_path_factory):
    """Return what all commands of the page print, run in order in an empty folder."""
    folder = tmp_path_factory.mktemp("tutorial")
    done = subprocess.run(
        [shutil.which("bash"), "-euo", "pipefail", "-c", COMMANDS],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("line", SAID)
def test_the_commands_print_what_the_page_says(output, line):
    assert line in output


def test_the_pack_is_in_the_list_and_nothing_wrong_was_published(output):
    assert re.search(r"^acme +entry point +0\.1\.0 +acme +model_type acme", output, re.MULTILINE)
    assert "build/broken:" not in output
