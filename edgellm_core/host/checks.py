"""What a plugin must be before it takes part: known hooks, their arguments, well-formed families for these versions."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from edgellm_core.contract import CONTRACT_VERSION, ModelFamily
from edgellm_core.errors import Stopped
from edgellm_core.host.errors import (
    ContractVersionError,
    HookArgumentsError,
    HookResultError,
    MalformedFamilyError,
    NoHookError,
    NotAModuleError,
    PluginImportError,
    TransformersRangeError,
    UnknownHookError,
    UnmarkedHookError,
    describe,
)
from edgellm_core.host.foreign_code import confined, named_if_slow
from edgellm_core.host.guarded_family import guard

if TYPE_CHECKING:
    from types import ModuleType

    import pluggy

    from edgellm_core.host.discovery import Candidate

T = TypeVar("T")


def import_plugin(candidate: Candidate) -> ModuleType:
    """Import a plugin.

    Raises:
        PluginImportError: the import raised, whatever it raised.
        NotAModuleError: an entry point names something else.
    """
    try:
        with confined(), named_if_slow(candidate.name):
            return candidate.load()
    except (NotAModuleError, KeyboardInterrupt, Stopped):
        raise
    except BaseException as error:  # foreign code runs here: anything it raises is its own failure
        raise PluginImportError(candidate.name, error) from error


def check_hooks(manager: pluggy.PluginManager, plugin: str, module: ModuleType) -> None:
    """Check that the module implements hooks, that they exist, and that they take no unknown arguments.

    pluggy itself accepts unknown names until ``check_pending``, which can't say which plugin to leave out.

    Raises:
        UnmarkedHookError: a function is named like a hook and lacks the marker.
        UnknownHookError: a marked function names no hook.
        HookArgumentsError: a marked function has arguments that the hook lacks.
        NoHookError: nothing is marked.
    """
    specs = {name: caller.spec for name, caller in vars(manager.hook).items() if caller.has_spec()}
    implemented = False
    for attribute in dir(module):
        options = manager.parse_hookimpl_opts(module, attribute)
        if options is None:
            if attribute in specs:
                raise UnmarkedHookError(plugin, attribute)
            continue
        implemented = True
        hook = options.get("specname") or attribute
        if hook not in specs:
            raise UnknownHookError(plugin, hook, specs)
        known = specs[hook].argnames
        unknown = [name for name in inspect.signature(getattr(module, attribute)).parameters if name not in known]
        if unknown:
            raise HookArgumentsError(plugin, hook, unknown, known)
    if not implemented:
        raise NoHookError(plugin)


def check_items(
    plugin: str, hook: str, items: object, requirement: str, accept: Callable[[Any], bool]
) -> Sequence[Any]:
    """Return ``items`` where it is a sequence of what the hook asks for.

    Raises:
        HookResultError: it is not.
    """
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise HookResultError(plugin, hook, requirement, items)
    for item in items:
        if not accept(item):
            raise HookResultError(plugin, hook, requirement, item)
    return items


def make_family(plugin: str, family: type[ModelFamily]) -> ModelFamily:
    """Return an instance of a family that fits this contract and the installed transformers, guarded.

    Raises:
        ContractVersionError: it was written for another contract.
        MalformedFamilyError: its version range can't be read, or it can't be made.
        TransformersRangeError: it does not support the installed transformers.
    """
    if family.contract != CONTRACT_VERSION:
        raise ContractVersionError(plugin, family.name, family.contract, CONTRACT_VERSION)
    check_transformers(plugin, family)
    try:
        with confined():
            made = family()
    except (KeyboardInterrupt, Stopped):
        raise
    except BaseException as error:  # foreign code runs here: anything it raises is its own failure
        problem = f"can't be made without arguments: {describe(error)}"
        raise MalformedFamilyError(plugin, family.name, problem) from error
    return guard(plugin, made)


def check_transformers(plugin: str, family: type[ModelFamily]) -> None:
    """Compare a family's range with the installed transformers, whose metadata is read without importing it."""
    try:
        supported = SpecifierSet(family.transformers)
    except (InvalidSpecifier, TypeError, AttributeError) as error:
        problem = f"has transformers = {family.transformers!r}; write a range such as '>=5.0,<6'."
        raise MalformedFamilyError(plugin, family.name, problem) from error
    try:
        installed = importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError:
        raise TransformersRangeError(plugin, family.name, family.transformers, None) from None
    if not supported.contains(installed, prereleases=True):
        raise TransformersRangeError(plugin, family.name, family.transformers, installed)


def is_subclass_of(base: type) -> Callable[[Any], bool]:
    """Return a test for proper subclasses of ``base``."""
    return lambda item: isinstance(item, type) and issubclass(item, base) and item is not base


def is_named_subclass_of(base: type) -> Callable[[Any], bool]:
    """Return a test for proper subclasses of ``base`` whose ``name`` is text."""
    proper = is_subclass_of(base)
    return lambda item: proper(item) and isinstance(item.name, str) and bool(item.name)


def duplicates(items: Iterable[T]) -> list[T]:
    """Return the items that occur more than once."""
    listed = list(items)
    return [item for index, item in enumerate(listed) if item in listed[:index]]
