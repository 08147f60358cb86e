"""Why a model can't be traced, and what to do about it."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from edgellm_core.errors import PluginError, UserError, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class UnsupportedArchitectureError(UserError):
    """The installed transformers has no causal language model for this config."""

    def __init__(
        self, model_type: object, architectures: object, reason: str, nearest: Sequence[str] | None = None
    ) -> None:
        """Say what was read, why it is not supported, and what helps.

        Args:
            model_type: of config.json.
            architectures: of config.json.
            reason: why not.
            nearest: families that are near; None where no family helps, since transformers knows what the model is.
        """
        near = ", ".join(repr(name) for name in nearest or ())
        remedy = f"Nearest families: {near}; try one with --family NAME." if near else "Name a family with --family."
        if nearest is None:
            remedy = "edgellm builds decoders with a language model head: give such a model."
        super().__init__(
            f"config.json has model_type {model_type!r} and architectures {architectures!r}: {reason}. {remedy}"
        )


class UntrustedCodeError(UserError):
    """The checkpoint brings its own modeling code, which would run on this machine."""

    def __init__(self, directory: object, reference: str) -> None:
        """Name the checkpoint, the file and the option."""
        module, _, name = reference.rpartition("--")[2].rpartition(".")
        super().__init__(
            f"{str(directory)!r} is computed by its own code: {name} in {module}.py, which transformers does not have. "
            f"Read that file, and give --trust-remote-code if it may run here."
        )


class FailedCodeError(UserError):
    """The checkpoint's own modeling code can't be used."""

    def __init__(self, directory: object, reason: str) -> None:
        """Name the checkpoint and the reason."""
        super().__init__(
            f"The modeling code of {str(directory)!r} can't be used: {reason}. Complete the Python files beside its "
            f"config.json, or leave --trust-remote-code out and name a family with --family."
        )


class InvalidConfigError(UserError):
    """transformers refused the values of config.json."""

    def __init__(self, directory: object, reason: str) -> None:
        """Name the checkpoint and transformers' reason."""
        super().__init__(f"transformers can't read the config of {str(directory)!r}: {reason}. Correct config.json.")


class UnreadConfigKeysError(UserError):
    """config.json has keys that neither transformers nor the family reads, so the math may differ."""

    def __init__(self, keys: Sequence[str], family: str) -> None:
        """Name the keys."""
        self.keys = tuple(keys)
        shown = ", ".join(repr(key) for key in keys[:8])
        super().__init__(
            f"config.json has keys that nothing reads for family {family!r}: {shown}. They may change the math; "
            f"remove them from config.json, or list them in the family's harmless_config_keys."
        )


class UnsupportedConversionError(UserError):
    """transformers computes a parameter from the checkpoint in a way that streaming can't follow."""

    def __init__(self, parameter: str, operations: Sequence[str]) -> None:
        """Name the parameter and what transformers does."""
        super().__init__(
            f"Parameter {parameter!r} must be one or more checkpoint tensors, stacked or joined; transformers makes it "
            f"with {', '.join(operations)}. Load the model with transformers once, save it, and build from that."
        )


class SeveralTensorsError(UserError):
    """The checkpoint holds one parameter under several names."""

    def __init__(self, parameter: str, names: Sequence[str]) -> None:
        """Name the parameter and its tensors."""
        shown = " and ".join(repr(name) for name in names[:3])
        super().__init__(
            f"The checkpoint holds parameter {parameter!r} {len(names)} times, as {shown}; transformers says not which "
            "of them counts. Remove all but one of them."
        )


class HeadGroupsError(UserError):
    """The query heads of an attention can't be shared out among its key-value heads."""

    def __init__(self, module: str, heads: int, kv_heads: int) -> None:
        """Name the attention and both numbers."""
        super().__init__(
            f"Attention must have a multiple of its key-value heads as query heads; {module} has {heads} query heads "
            f"and {kv_heads} key-value heads, so the original model itself can't run. Correct num_attention_heads and "
            "num_key_value_heads in config.json."
        )


class UntraceableModelError(UserError):
    """The model does something that the exported graph could not reproduce."""

    def __init__(self, model: str, reason: str) -> None:
        """Name the model class and what it does."""
        self.reason = reason
        super().__init__(f"{model} can't be exported: {reason}. A family plugin has to handle it.")


class UnknownConfigNameError(UserError):
    """A key of config.json names something that transformers does not have: an activation, a kind of RoPE."""

    def __init__(self, model: str, keys: Sequence[str], name: str) -> None:
        """Name the model class, the keys with that value, and the value."""
        where = " and ".join(repr(key) for key in keys)
        super().__init__(
            f"config.json has {shown(name)} under {where}, which {model} of the installed transformers does not know. "
            "Correct config.json, or install a transformers that knows it."
        )


class WrongWrapperError(PluginError):
    """A family's layer wrapper does not compute what the module that it replaces computes."""

    def __init__(self, family: str, module: str, error: float) -> None:
        """Name the family, the wrapped class and how far off the wrapper was on random numbers."""
        super().__init__(
            f"Family {family!r}: the wrapper for {module!r} must equal the module that it replaces; "
            f"on random numbers it was off by {error:.2g} (relative). Correct module_forwards()."
        )


class UnusedWrapperError(PluginError):
    """A family wraps a class that the model does not have, so nothing would be replaced."""

    def __init__(self, family: str, module: str, model: str, known: Iterable[str]) -> None:
        """Name the family and the class, and offer the nearest class of the model."""
        names = {name.lower(): name for name in sorted(known)}
        close = difflib.get_close_matches(module.lower(), names, n=1, cutoff=0.6)
        remedy = f"Did you mean {names[close[0]]!r}?" if close else f"It has {', '.join(list(names.values())[:20])}."
        super().__init__(
            f"Family {family!r}: module_forwards() must name classes of the model; {model} has no {module!r}. {remedy}"
        )


class FailedWrapperError(PluginError):
    """A family's layer wrapper raises where the module that it replaces works."""

    def __init__(self, family: str, module: str, error: Exception) -> None:
        """Name the family, the wrapped class and what the wrapper raised."""
        super().__init__(
            f"Family {family!r}: the wrapper for {module!r} must take what the module that it replaces takes; "
            f"on random numbers it raised {type(error).__name__}: {error}. Correct module_forwards()."
        )
