"""Fixtures of the host's tests: hosts whose environment is given, and distributions with entry points."""

from __future__ import annotations

import sys

import pytest

from edgellm_core.host import PluginHost
from edgellm_core.testing.plugin_files import write_plugin


@pytest.fixture(scope="session")
def load():
    """Return a function that loads a host from paths, with no environment variables but those given."""

    def load_host(*paths, **environ):
        return PluginHost.load(paths, environ, skip_named=True)

    return load_host


@pytest.fixture(scope="session")
def record_of():
    """Return a function that finds a plugin's record by name and route."""

    def find(host, name, origin="path"):
        return next(record for record in host.records if (record.name, record.origin) == (name, origin))

    return find


@pytest.fixture
def entry_points(tmp_path, monkeypatch):
    """Return a function that makes a distribution with one entry point, as pip would leave it behind."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    made = []

    def make(name, body, *, module=None, version="0.1"):
        module = module or f"entry_point_pack_{name}"
        write_plugin(site, module.partition(":")[0], body)
        metadata = site / f"pack_{name}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: pack-{name}\nVersion: {version}\n")
        (metadata / "entry_points.txt").write_text(f"[edgellm]\n{name} = {module}\n")
        made.append(module.partition(":")[0])

    yield make
    for module in made:
        sys.modules.pop(module, None)
