"""Targets: what a runtime takes, one folder each."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

from edgellm_core.errors import InvalidSettingError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgellm_core.contract import Target

BUILT_IN: Final[Mapping[str, str]] = {
    "edge-llm": "edgellm_core.targets.edge_llm:EdgeLlmTarget",
    "onnx": "edgellm_core.targets.onnx:OnnxTarget",
}
"""Targets of the core, by name; imported when they are used."""


def require_precision(target: Target, precision: str) -> None:
    """Refuse a precision that a target does not have for what is not quantized.

    Raises:
        InvalidSettingError: naming those that it has.
    """
    if target.precisions and precision not in target.precisions:
        allowed = ", ".join(target.precisions)
        raise InvalidSettingError(
            "--precision",
            f"must be {allowed} for what target {target.name!r} does not quantize",
            precision,
            f"Choose {allowed}, or --target onnx.",
        )


def find_target(name: str, brought: Mapping[str, type[Target]]) -> Target:
    """Return a target by name.

    Args:
        name: value of ``--target``.
        brought: targets that plugins bring; they win over the core's.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name in brought:
        return brought[name]()
    if name not in BUILT_IN:
        raise UnknownNameError("target", name, {*BUILT_IN, *brought})
    module, _, attribute = BUILT_IN[name].partition(":")
    target: type[Target] = getattr(importlib.import_module(module), attribute)
    return target()
