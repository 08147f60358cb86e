"""Finds, loads, isolates and asks plugins."""

from __future__ import annotations

from edgellm_core.host.discovery import LIBRARY_SUFFIX, listed_paths
from edgellm_core.host.plugin_host import PluginHost
from edgellm_core.host.records import Claim, Origin, PluginRecord, Selection, Status, plugin_digest

__all__ = [
    "LIBRARY_SUFFIX",
    "Claim",
    "Origin",
    "PluginHost",
    "PluginRecord",
    "Selection",
    "Status",
    "listed_paths",
    "plugin_digest",
]
