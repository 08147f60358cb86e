"""Runs the modeling code that a checkpoint brings itself; only after the user has said that it is trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgellm_core.checkpoint.own_code import CONFIG_KEY, MODEL_KEY, own_classes
from edgellm_core.errors import one_line
from edgellm_core.tracing.errors import FailedCodeError, UntrustedCodeError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from transformers import PreTrainedConfig


def refuse_untrusted(directory: Path, config: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose own code would have to run, and name the file and the option.

    Raises:
        UntrustedCodeError: it has such code.
    """
    classes = own_classes(config)
    if classes:
        raise UntrustedCodeError(directory, classes[MODEL_KEY])


def load_own_config_class(directory: Path, config: Mapping[str, Any]) -> type[PreTrainedConfig]:
    """Import a checkpoint's own config and model classes, and let transformers find the model by the config.

    Raises:
        FailedCodeError: a class is not there, lies in another repository, or its code raises.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    classes = own_classes(config)
    loaded: dict[str, Any] = {key: _load(directory, key, classes.get(key)) for key in (CONFIG_KEY, MODEL_KEY)}
    mapping: Any = MODEL_FOR_CAUSAL_LM_MAPPING
    mapping.register(loaded[CONFIG_KEY], loaded[MODEL_KEY], exist_ok=True)
    config_class: type[PreTrainedConfig] = loaded[CONFIG_KEY]
    return config_class


def _load(directory: Path, key: str, reference: str | None) -> type[Any]:
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    if reference is None:
        raise FailedCodeError(directory, f"its auto_map has no {key}")
    if "--" in reference:
        raise FailedCodeError(directory, f"its auto_map takes {reference!r} from another repository")
    try:
        found: type[Any] = get_class_from_dynamic_module(reference, directory, local_files_only=True)
    except Exception as error:  # the code of a checkpoint can raise any class
        reason = one_line(error)
        raise FailedCodeError(directory, f"{reference} raised {type(error).__name__}: {reason}") from error
    return found
