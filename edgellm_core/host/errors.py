"""What can be wrong with a plugin or with the settings that choose plugins."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from edgellm_core.errors import LONGEST_REASON, EdgellmError, PluginError, Stopped, UserError, shown

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class PluginPathError(UserError):
    """A folder given by ``--plugin-path`` or ``EDGELLM_PLUGIN_PATH`` holds no plugin."""

    def __init__(self, path: Path, problem: str) -> None:
        """Build ``Plugin path '/x' does not exist. Give …``."""
        super().__init__(
            f"Plugin path '{path}' {problem}. Give a package folder, a folder of such packages, or a .py file "
            "(--plugin-path or EDGELLM_PLUGIN_PATH)."
        )


class PluginImportError(PluginError):
    """Importing the plugin raised."""

    def __init__(self, plugin: str, error: BaseException) -> None:
        """Build ``Plugin 'x' can't be imported: ModuleNotFoundError: …``."""
        super().__init__(f"Plugin {plugin!r} can't be imported: {describe(error)}")


class NotAModuleError(PluginError):
    """An entry point names something else than a module."""

    def __init__(self, plugin: str, value: str, loaded: object) -> None:
        """Build ``Plugin 'x': its entry point must name a module; …``."""
        super().__init__(
            f"Plugin {plugin!r}: its entry point must name a module; {value!r} is of type {type(loaded).__name__}. "
            f"Write {value.partition(':')[0]!r}."
        )


class NoHookError(PluginError):
    """A plugin registers nothing."""

    def __init__(self, plugin: str) -> None:
        """Build ``Plugin 'x' implements no hook. …``."""
        super().__init__(
            f"Plugin {plugin!r} implements no hook. Mark its edgellm_… functions with @hookimpl from "
            "edgellm_core.hookspecs."
        )


class UnmarkedHookError(PluginError):
    """A function has the name of a hook and lacks the marker."""

    def __init__(self, plugin: str, hook: str) -> None:
        """Build ``Plugin 'x': edgellm_… is not marked. …``."""
        super().__init__(
            f"Plugin {plugin!r}: {hook} is not marked as an implementation, so it would never be called. "
            "Decorate it with @hookimpl from edgellm_core.hookspecs."
        )


class UnknownHookError(PluginError):
    """An implementation names a hook that does not exist."""

    def __init__(self, plugin: str, hook: str, known: Iterable[str]) -> None:
        """Build ``Plugin 'x' implements the unknown hook 'edgellm_…'. Did you mean …?``."""
        names = sorted(known)
        close = difflib.get_close_matches(hook, names, n=1, cutoff=0.6)
        remedy = f"Did you mean {close[0]!r}?" if close else f"Available: {', '.join(names)}."
        super().__init__(f"Plugin {plugin!r} implements the unknown hook {hook!r}. {remedy}")


class HookArgumentsError(PluginError):
    """An implementation asks for arguments that the hook does not have."""

    def __init__(self, plugin: str, hook: str, unknown: Iterable[str], known: Iterable[str]) -> None:
        """Build ``Plugin 'x': edgellm_… has no argument 'y'. It may take …``."""
        taken = ", ".join(known) or "none"
        super().__init__(
            f"Plugin {plugin!r}: {hook} has no argument {', '.join(map(repr, unknown))}. It may take: {taken}."
        )


class HookResultError(PluginError):
    """A hook returned something that its specification does not allow."""

    def __init__(self, plugin: str, hook: str, requirement: str, value: object) -> None:
        """Build ``Plugin 'x': edgellm_… must return …; got …``."""
        super().__init__(f"Plugin {plugin!r}: {hook} must return {requirement}; got {shown(value)}.")


class HookFailedError(PluginError):
    """A hook raised."""

    def __init__(self, plugin: str, hook: str, error: BaseException) -> None:
        """Build ``Plugin 'x' failed in edgellm_…: ValueError: …``."""
        super().__init__(
            f"Plugin {plugin!r} failed in {hook}: {describe(error)} (EDGELLM_PLUGINS selects plugins by name, so it "
            "can leave this one out.)"
        )


class MalformedFamilyError(PluginError):
    """A family can't be made, or one of its attributes has no meaning."""

    def __init__(self, plugin: str, family: str, problem: str) -> None:
        """Build ``Plugin 'x': family 'y' <problem>``."""
        super().__init__(f"Plugin {plugin!r}: family {family!r} {problem}")


class FamilyMethodError(PluginError):
    """A method of a family raised."""

    def __init__(self, plugin: str, family: str, method: str, error: BaseException) -> None:
        """Build ``Plugin 'x' failed in rules() of family 'y': ValueError: …``."""
        super().__init__(
            f"Plugin {plugin!r} failed in {method}() of family {family!r}: {describe(error)} (Correct the plugin, or "
            "leave it out with EDGELLM_PLUGINS, or name another family with --family.)"
        )


class FamilyResultError(PluginError):
    """A method of a family returned something that the contract does not allow."""

    def __init__(self, plugin: str, family: str, method: str, requirement: str, value: object) -> None:
        """Build ``Plugin 'x': rules() of family 'y' must return …; got …``."""
        super().__init__(
            f"Plugin {plugin!r}: {method}() of family {family!r} must return {requirement}; got {shown(value)}. "
            "Correct it."
        )


class ContractVersionError(PluginError):
    """A family was written for another contract."""

    def __init__(self, plugin: str, family: str, wanted: object, have: int) -> None:
        """Build ``Plugin 'x': family 'y' needs plugin contract 2; this edgellm has 1. …``."""
        newer = isinstance(wanted, int) and wanted > have
        remedy = "Upgrade edgellm." if newer else "Upgrade the plugin."
        super().__init__(
            f"Plugin {plugin!r}: family {family!r} needs plugin contract {wanted!r}; this edgellm has {have}. {remedy}"
        )


class TransformersRangeError(PluginError):
    """The installed transformers is outside the range that a family supports."""

    def __init__(self, plugin: str, family: str, wanted: str, installed: str | None) -> None:
        """Build ``Plugin 'x': family 'y' needs transformers >=6; 5.23.0 is installed. …``."""
        self.family = family
        have = f"{installed} is installed" if installed else "it is not installed"
        super().__init__(
            f"Plugin {plugin!r}: family {family!r} needs transformers {wanted}; {have}. Install a version in that "
            "range, or another version of the plugin."
        )


class ClaimConflictError(PluginError):
    """Two plugins of one discovery route want the same thing."""

    def __init__(self, plugin: str, claim: str, holder: str, origin: str) -> None:
        """Build ``Plugin 'x' claims model_type 'y', which plugin 'z' (entry point) claims already. …``."""
        super().__init__(
            f"Plugin {plugin!r} claims {claim}, which plugin {holder!r} ({origin}) claims already. Change one of the "
            "two, or choose with EDGELLM_PLUGINS."
        )


class RepeatedClaimError(PluginError):
    """A plugin claims the same thing twice."""

    def __init__(self, plugin: str, claim: str) -> None:
        """Build ``Plugin 'x' claims model_type 'y' twice. …``."""
        super().__init__(f"Plugin {plugin!r} claims {claim} twice. Leave out one of the two.")


class DuplicatePluginError(PluginError):
    """Two plugins of one discovery route have the same name, or two names lead to one module."""

    def __init__(self, plugin: str, where: object, other: str, other_where: object) -> None:
        """Build ``Plugin 'x' at /a is found a second time: as 'x' at /b. …``."""
        super().__init__(
            f"Plugin {plugin!r} at {where} is found a second time: as {other!r} at {other_where}. Rename or remove one."
        )


class UnknownResolvedFamilyError(PluginError):
    """A plugin's ``edgellm_resolve_family`` answered with a family that is not there."""

    def __init__(self, plugin: str, family: object, known: Iterable[str]) -> None:
        """Build ``Plugin 'x' resolves the checkpoint to family 'y', which does not exist. …``."""
        super().__init__(
            f"Plugin {plugin!r} resolves the checkpoint to family {family!r}, which does not exist. "
            f"Available: {', '.join(sorted(known))}."
        )


def describe(error: BaseException) -> str:
    """Return one line about an exception; our own errors are sentences already."""
    try:
        text = " ".join(str(error).split())[:LONGEST_REASON]
    except (KeyboardInterrupt, Stopped):
        raise
    except BaseException:  # noqa: BLE001  # a plugin's own __str__
        return f"{type(error).__name__} (whose message can't be made)"
    return text if isinstance(error, EdgellmError) else f"{type(error).__name__}: {text}" if text else repr(error)
