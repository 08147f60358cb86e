"""Families whose methods, when they fail, say which plugin, family and method it was."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.contract import AttentionAttributes, ModelFamily
from edgellm_core.errors import EdgellmError, Stopped
from edgellm_core.host.errors import FamilyMethodError, FamilyResultError

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS: Final[Mapping[str, tuple[tuple[type, ...], str]]] = {
    "register_model": ((type(None),), "nothing"),
    "module_forwards": ((Mapping,), "a mapping from class names to functions"),
    "attention_attributes": ((AttentionAttributes,), "AttentionAttributes"),
    "prepare_config": ((type(None),), "nothing: it changes its argument"),
    "complete_gguf_config": ((type(None),), "nothing: it changes its argument"),
    "rules": ((Sequence,), "a sequence of Rule instances"),
    "chat_template": ((str, type(None)), "the text of a template, or None"),
    "tiny_config": ((Mapping,), "a mapping: the contents of a config.json"),
}
"""Method of a family → what it may return, as types and in words."""


def guard(plugin: str, family: ModelFamily) -> ModelFamily:
    """Return the family, with every method that it overrides turned into one that fails with a sentence.

    Args:
        plugin: name of its plugin.
        family: an instance; it gets attributes that stand before the methods of its class.
    """
    for name in RESULTS:
        if getattr(type(family), name) is not getattr(ModelFamily, name):
            setattr(family, name, _guarded(plugin, family.name, name, getattr(family, name)))
    return family


def _guarded(plugin: str, family: str, method: str, call: Callable[..., Any]) -> Callable[..., Any]:
    types, requirement = RESULTS[method]

    @functools.wraps(call)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            result = call(*args, **kwargs)
        except (EdgellmError, KeyboardInterrupt, Stopped):  # a sentence for the user already, or the user's own wish
            raise
        except BaseException as error:  # foreign code runs here: anything it raises is its own failure
            raise FamilyMethodError(plugin, family, method, error) from error
        if not isinstance(result, types):
            raise FamilyResultError(plugin, family, method, requirement, result)
        return result

    return guarded
