"""What a comparison is asked to do, checked before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.errors import InvalidSettingError
from edgellm_core.host import PluginHost
from edgellm_core.pipeline.settings import BuildSettings
from edgellm_core.quantization.schemes import find_scheme
from edgellm_core.settings import ELEMENT_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PROMPTS: Final = (
    "What is the capital of France?",
    "Write a Python function that returns the largest of three numbers.",
    "Why is the sky blue? Answer in two sentences.",
)
"""Prompts whose answers are shown, where none are given: a fact, code, and an explanation."""

ONLY_FOR_SCHEMES: Final = ("lm_head", "kv_cache", "group_size", "rounding", "skip")
"""Fields of ``BuildSettings`` that a build without quantization refuses."""


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Settings of a comparison; every field but the first has the command line's default.

    Attributes:
        precisions: precisions and quantization schemes to build.
        prompts: texts that all of them answer.
        max_new_tokens: most tokens of an answer.
        build: other fields of ``BuildSettings``; those for quantizations are left out where they mean nothing, like a
            group size for a scheme that has only one.

    Raises:
        InvalidSettingError: no precision, one twice, or a value out of range.
        UnknownNameError: a choice that does not exist.
    """

    precisions: tuple[str, ...]
    prompts: tuple[str, ...] = DEFAULT_PROMPTS
    max_new_tokens: int = 48
    build: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what can't work, before anything is built."""
        if not self.precisions or len(set(self.precisions)) < len(self.precisions):
            given = ",".join(self.precisions) or "none"
            raise InvalidSettingError("--precision", "must list precisions, each once", given, "Write fp16,fp8.")
        if self.max_new_tokens < 1:
            raise InvalidSettingError("--max-new-tokens", "must be at least 1", self.max_new_tokens, "Raise it.")
        for precision in self.precisions:
            self.build_settings(precision)

    def build_settings(self, precision: str) -> BuildSettings:
        """Return the settings of one build; its quality is measured here, against one run of the original."""
        given = {"engine": "none", **self.build, "precision": precision, "quality": "off", "max_kl": None}
        if precision in ELEMENT_TYPES:
            return BuildSettings(**{name: value for name, value in given.items() if name not in ONLY_FOR_SCHEMES})
        settings = BuildSettings(**given)
        if settings.group_size is None:
            return settings
        scheme = find_scheme(precision, PluginHost.load(settings.plugin_paths).schemes())
        has_choice = len(scheme.block_sizes) > 1
        return settings if has_choice else BuildSettings(**{**given, "group_size": None})
