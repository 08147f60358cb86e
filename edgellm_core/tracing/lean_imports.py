"""Keeps a large package that tracing never uses from being imported."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


def import_partitioners() -> None:
    """Import a part of ``torch.export`` that needs networkx for annotations only, without importing networkx.

    networkx is 400 modules, 13 MB and 0.3 s. Its module that draws graphs gets the real one when it is first used.
    """
    if "networkx" in sys.modules or importlib.util.find_spec("networkx") is None:
        return
    sys.modules["networkx"] = _Annotations("networkx")
    try:
        importlib.import_module("torch._functorch.partitioners")
    finally:
        del sys.modules["networkx"]
    user: Any = sys.modules.get("torch._functorch._activation_checkpointing.graph_info_provider")
    if isinstance(getattr(user, "nx", None), _Annotations):
        user.nx = _Lazy("networkx")


class _Annotations(ModuleType):
    """Stands for a module of which only annotations speak."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return object


class _Lazy(ModuleType):
    """Imports the module of its name when an attribute is first asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)
