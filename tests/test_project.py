"""The project's own files agree: metadata, license, changelog, and the hooks that run before a commit."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
VERSION = re.search(r'^version = "(.+)"$', PYPROJECT, re.MULTILINE)[1]
RELEASES = re.findall(r"^## \[(.+?)\](.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]


def test_the_changelog_has_this_version_below_what_is_unreleased():
    assert RELEASES[0] == ("Unreleased", "")
    assert RELEASES[1][0] == VERSION == importlib.metadata.version("edgellm")
    assert all(re.fullmatch(r" - \d{4}-\d{2}-\d{2}", date) for _version, date in RELEASES[1:])


def test_the_license_is_the_one_that_the_package_names():
    assert 'license = "Apache-2.0"\nlicense-files = ["LICENSE"]' in PYPROJECT
    assert (ROOT / "LICENSE").read_text().split()[:4] == ["Apache", "License", "Version", "2.0,"]


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_a_hook_runs_what_make_lint_runs(hook):
    recipe = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0].replace("$(BIN)", ".venv/bin")
    command = hook["entry"].replace(" --force-exclude", "")
    assert command == "make lint" or command in recipe
