"""In-place operators of a program: when they are the operator that returns a new value, under another name.

``torch.export`` keeps ``x.div_(y)``. Whoever reads x afterwards means the result; nothing else changes as long as no
other value shares x's memory.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

_ALIASES_UNSAID = ("aten.dropout.default",)
"""Operators that return their input itself although their schema promises a new tensor."""


def is_in_place(node: fx.Node) -> bool:
    """Say whether a node changes its first argument and returns it."""
    schema: Any = getattr(node.target, "_schema", None)
    return bool(schema) and schema.name.endswith("_") and isinstance(node.args[0], fx.Node) and schema.is_mutable


def functional_name(node: fx.Node) -> str:
    """Return the name of the operator that computes the same: ``aten.div_.Tensor`` → ``aten.div.Tensor``."""
    return str(node.target).replace("_.", ".", 1)


def names_of_changed(node: fx.Node) -> list[fx.Node]:
    """Return all nodes so far that stand for the value that an in-place operator changes: its origin comes first."""
    origin: Any = node.args[0]
    while origin.op == "call_function" and is_in_place(origin):
        origin = origin.args[0]
    names = [origin]
    for name in names:
        names += [user for user in name.users if user < node and is_in_place(user) and user.args[0] is name]
    return names


def obstacle(node: fx.Node) -> str | None:
    """Return why an in-place operator can't be replaced, or None if it can.

    It can't where its first argument shares memory with another value, or is a buffer of the model that is read before
    it is overwritten: then the buffer carries something from one call to the next.
    """
    names = names_of_changed(node)
    earlier = [user for name in names for user in name.users if user < node and user not in names]
    if any(_shares_memory(user) for user in earlier) or _shares_memory(names[0]):
        return "on a value that shares memory with another"
    overwrites = functional_name(node) == "aten.copy.default" and len(names) == 1 and not earlier
    if names[0].op == "placeholder" and not overwrites:
        return "on a buffer that keeps its value between calls"
    return None


def _shares_memory(node: fx.Node) -> bool:
    """Say whether a node returns memory of its input."""
    if node.op != "call_function":
        return False
    if node.target is operator.getitem:
        source = node.args[0]
        return isinstance(source, fx.Node) and _shares_memory(source)
    if not isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001  # the class has no public name
        return True
    returns: Any = node.target._schema.returns  # noqa: SLF001  # no public query exists (torch 2.13)
    return any(value.alias_info for value in returns) or str(node.target) in _ALIASES_UNSAID
