"""Packs with defects, and the kit run on them."""

from __future__ import annotations

import os
import subprocess
import xml.etree.ElementTree as ET

import pytest

from edgellm_core.cli.new_pack import FILES, pack_names, pack_variables, plain_facts, render
from edgellm_core.cli.plugins_test import kit_command


@pytest.fixture(scope="session")
def write_pack_folder():
    """Return a function that writes a pack's package into a folder, with text in its files replaced."""

    def write(folder, name, **replacements):
        names = pack_names(name, ())
        for path, text in render(FILES, pack_variables(names, plain_facts(names))).items():
            if not path.startswith("src/"):
                continue
            file = folder / path.removeprefix("src/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            for old, new in replacements.get(file.stem, ()):
                assert old in file.read_text(), (path, old)
                file.write_text(file.read_text().replace(old, new))
        return folder / names.package

    return write


@pytest.fixture(scope="session")
def kit(tmp_path_factory):
    """Return a function that runs pytest with the kit and returns exit code, output, and outcome by id."""

    def run(*options, command=None):
        results = tmp_path_factory.mktemp("kit") / "results.xml"
        others = {name: value for name, value in os.environ.items() if not name.startswith("EDGELLM_PLUGIN")}
        done = subprocess.run(
            [*(command or kit_command()), f"--junitxml={results}", *map(str, options)],
            env=others,
            capture_output=True,
            text=True,
            check=False,
        )
        cases = ET.parse(results).iter("testcase") if results.is_file() else ()
        outcomes = {case.get("name").partition("[")[2].rstrip("]"): outcome(case) for case in cases}
        return done.returncode, done.stdout + done.stderr, outcomes

    return run


def outcome(case):
    kinds = {child.tag for child in case}
    return next((kind for kind in ("error", "failure", "skipped") if kind in kinds), "passed")
