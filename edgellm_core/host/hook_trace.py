"""``EDGELLM_TRACE=1``: every hook call on stderr."""

from __future__ import annotations

import reprlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pluggy


def trace_hooks(manager: pluggy.PluginManager) -> None:
    """Print each call with the plugins that implement it, then what it returned or raised."""
    manager.add_hookcall_monitoring(_before, _after)


def _before(hook: str, implementations: Sequence[pluggy.HookImpl], arguments: Mapping[str, Any]) -> None:
    shown = ", ".join(f"{name}={reprlib.repr(value)}" for name, value in arguments.items())
    plugins = ", ".join(implementation.plugin_name for implementation in implementations)
    sys.stderr.write(f"{hook}({shown}) in {plugins}\n")


def _after(
    outcome: pluggy.Result[Any],
    hook: str,
    _implementations: Sequence[pluggy.HookImpl],
    _arguments: Mapping[str, Any],
) -> None:
    error = outcome.exception
    sys.stderr.write(f"{hook} → {reprlib.repr(outcome.get_result()) if error is None else repr(error)}\n")
