"""Targets: what a runtime takes, one folder each."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.errors import InvalidSettingError, NoFormError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgellm_core.contract import Target

DEFAULT_SCORES: Final = "auto"
"""Value of ``--attention-scores`` that leaves scores in the type of the graph."""

BUILT_IN: Final[Mapping[str, str]] = {
    "edge-llm": "edgellm_core.targets.edge_llm:EdgeLlmTarget",
    "onnx": "edgellm_core.targets.onnx:OnnxTarget",
}
"""Targets of the core, by name; imported when they are used."""


def require_precision(
    target: Target, precision: str, *, scheme: str | None = None, kv_cache: str | None = None
) -> None:
    """Refuse, before anything long, what a target has no form for.

    Args:
        target: the target.
        precision: of what is not quantized.
        scheme: what the rest is quantized to; None for nothing.
        kv_cache: what keys and values are quantized to; None for nothing.

    Raises:
        InvalidSettingError: it has not that precision; names those that it has.
        NoFormError: it takes nothing that is quantized so.
    """
    lacking = set()
    if scheme is not None and target.schemes is not None and scheme not in target.schemes:
        lacking.add(f"{scheme} weights")
    if kv_cache is not None and target.kv_caches is not None and kv_cache not in target.kv_caches:
        lacking.add(f"an {kv_cache} KV cache")
    if lacking:
        raise NoFormError(target.name, lacking)
    if target.precisions and precision not in target.precisions:
        allowed = ", ".join(target.precisions)
        raise InvalidSettingError(
            "--precision",
            f"must be {allowed} for what target {target.name!r} does not quantize",
            precision,
            f"Choose {allowed}, or --target onnx.",
        )


def find_target(name: str, brought: Mapping[str, type[Target]], *, attention_scores: str = DEFAULT_SCORES) -> Target:
    """Return a target by name.

    Args:
        name: value of ``--target``.
        brought: targets that plugins bring; they win over the core's.
        attention_scores: value of ``--attention-scores``.

    Raises:
        UnknownNameError: there is none of that name.
        InvalidSettingError: it can't compute attention scores so.
    """
    if name not in brought and name not in BUILT_IN:
        raise UnknownNameError("target", name, {*BUILT_IN, *brought})
    target: Target = brought[name]() if name in brought else load_class(BUILT_IN[name])()
    if attention_scores not in (DEFAULT_SCORES, *target.score_types):
        raise InvalidSettingError(
            "--attention-scores",
            f"must be {DEFAULT_SCORES} for target {name!r}, whose runtime decides how scores are computed",
            attention_scores,
            "Leave it out, or choose --target onnx.",
        )
    target.attention_scores = attention_scores
    return target


def load_class(reference: str) -> Any:
    """Import a class when it is used.

    Args:
        reference: ``module:class``, as targets name what runs their graphs.
    """
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
