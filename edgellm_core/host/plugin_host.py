"""The plugin host: finds, checks and isolates plugins, and asks them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pluggy

from edgellm_core import hookspecs
from edgellm_core.contract import CORE_CALIBRATION_DATA, CalibrationData, ModelFamily, QuantizationScheme, Target
from edgellm_core.errors import EdgellmError, Stopped, UnknownNameError
from edgellm_core.host.checks import (
    check_hooks,
    check_items,
    duplicates,
    import_plugin,
    is_named_subclass_of,
    is_subclass_of,
    make_family,
)
from edgellm_core.host.claims import ClaimTable, LoadedPlugin
from edgellm_core.host.discovery import (
    LIBRARY_SUFFIX,
    Candidate,
    core_candidate,
    entry_point_candidates,
    in_tree_candidates,
    listed_paths,
    path_candidates,
)
from edgellm_core.host.errors import (
    ClaimConflictError,
    DuplicatePluginError,
    HookFailedError,
    HookResultError,
    RepeatedClaimError,
    TransformersRangeError,
    UnknownResolvedFamilyError,
)
from edgellm_core.host.foreign_code import confined
from edgellm_core.host.hook_trace import trace_hooks
from edgellm_core.host.records import Claim, PluginRecord, Selection, plugin_digest
from edgellm_core.host.selection import nearest_families, select_claimed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import click

    from edgellm_core.surgery.rule import Rule


class PluginHost:
    """All plugins of one process or test; there is no global one.

    Plugins that can't take part are recorded with their error and left out; the others work. A plugin that fails
    later, in a hook that a build needs, ends the build with an error that names it.
    """

    def __init__(self, *, trace: bool = False) -> None:
        """Make a host without plugins; use ``load``.

        Args:
            trace: print every hook call to stderr.
        """
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        if trace:
            trace_hooks(self._manager)
        self._claims = ClaimTable()
        self._plugins: list[LoadedPlugin] = []
        self._entries: list[LoadedPlugin | PluginRecord] = []

    @classmethod
    def load(
        cls, plugin_paths: Sequence[Path] = (), environ: Mapping[str, str] = os.environ, *, skip_named: bool = False
    ) -> PluginHost:
        """Discover and load plugins: in-tree folders, then entry points, then paths; the later route wins a claim.

        Args:
            plugin_paths: folders from ``--plugin-path``; they come before those of ``EDGELLM_PLUGIN_PATH``.
            skip_named: record a plugin in ``plugin_paths`` that can't be loaded, as every other; else it is an error.
            environ: where ``EDGELLM_PLUGINS``, ``EDGELLM_PLUGIN_PATH`` and ``EDGELLM_TRACE`` are read.

        Raises:
            PluginPathError: a path does not exist or holds no plugin.
            UnknownNameError: ``EDGELLM_PLUGINS`` names a plugin that was not found.
            PluginError: a plugin in ``plugin_paths`` can't be loaded; one class per cause.
        """
        host = cls(trace=environ.get("EDGELLM_TRACE") == "1")
        paths = [*plugin_paths, *(path for path in listed_paths(environ) if path.suffix != LIBRARY_SUFFIX)]
        candidates = [*in_tree_candidates(), *entry_point_candidates(), *path_candidates(paths)]
        selected = _selected_names(environ.get("EDGELLM_PLUGINS"), [candidate.name for candidate in candidates])
        named = set() if skip_named else {candidate.location for candidate in path_candidates(plugin_paths)}
        host._add(core_candidate())
        for candidate in candidates:
            if candidate.name in selected:
                host._add(candidate, required=candidate.origin == "path" and candidate.location in named)
            else:
                host._entries.append(replace(_record(candidate), status="deselected"))
        return host

    @property
    def records(self) -> tuple[PluginRecord, ...]:
        """One record for each plugin that was found, the core's first, in the order of discovery."""
        return tuple(
            entry if isinstance(entry, PluginRecord) else self._claims.record(entry) for entry in self._entries
        )

    @cached_property
    def digest(self) -> str:
        """A sha256 over name, version and every file of the plugins that are loaded, in their order.

        Any of them may answer any hook, now or after its next change, so results of every stage depend on all.
        """
        digest = hashlib.sha256()
        for plugin in self._plugins:
            record = _record(plugin.candidate)
            fields = (record.name, record.origin, record.version, plugin_digest(record))
            digest.update("\0".join(fields).encode() + b"\n")
        return digest.hexdigest()

    def family_names(self) -> list[str]:
        """Return the names of all families, sorted; ``generic`` is one."""
        return sorted(name for name, _family in self._claims.items("family"))

    def families(self) -> list[ModelFamily]:
        """Return all families, in the order of their names."""
        return [family for _name, family in sorted(self._claims.items("family"), key=lambda item: item[0])]

    def targets(self) -> dict[str, type[Target]]:
        """Return the targets that plugins bring, by name."""
        return dict(self._claims.items("target"))

    def target_plugin(self, name: str) -> PluginRecord | None:
        """Return the plugin that brings a target; None for a target of the core."""
        found = self._claims.get("target", name)
        return None if found is None else self._claims.record(found[0])

    def schemes(self) -> dict[str, type[QuantizationScheme]]:
        """Return the quantization schemes that plugins bring, by name."""
        return dict(self._claims.items("scheme"))

    def commands(self) -> dict[str, click.Command]:
        """Return the subcommands that plugins bring, by name."""
        return dict(self._claims.items("command"))

    def calibration_data(self) -> dict[str, type[CalibrationData]]:
        """Return the calibration texts that plugins bring, by name."""
        return dict(self._claims.items("calibration data"))

    def rules(self) -> list[Rule]:
        """Return the rules that plugins bring for graphs of any family.

        Raises:
            HookFailedError: a plugin's hook raised.
            HookResultError: it returned something else than rules.
        """
        hook, requirement = "edgellm_register_rules", "a sequence of Rule instances"
        return [
            rule
            for plugin in self._implementing(hook)
            for rule in self._register(plugin, hook, requirement, _looks_like_rule)
        ]

    def select(
        self, config: Mapping[str, Any], *, forced: str | None = None, directory: Path | None = None
    ) -> Selection:
        """Choose the family of a checkpoint: forced, resolved by a plugin, claimed, or else the generic one.

        Args:
            config: contents of config.json.
            forced: name of the family that the user asks for.
            directory: folder of the checkpoint, for plugins that look at more than the config.

        Raises:
            UnknownNameError: there is no family of the forced name.
            HookFailedError: a plugin's ``edgellm_resolve_family`` raised.
            UnknownResolvedFamilyError: it answered with a family that is not there.
        """
        if forced is not None:
            if self._claims.get("family", forced) is None:
                raise UnknownNameError("family", forced, self.family_names())
            return self._selection(forced, "it was asked for by name")
        resolved = self.resolve_family(config, directory)
        if resolved is not None:
            plugin, name = resolved
            return self._selection(name, f"plugin {plugin!r} resolves this checkpoint to family {name!r}")
        return self._selection(*select_claimed(self._claims, config))

    def resolve_family(self, config: Mapping[str, Any], directory: Path | None = None) -> tuple[str, str] | None:
        """Return the first plugin that knows an odd checkpoint, and its family; later routes are asked first."""
        hook = "edgellm_resolve_family"
        for plugin in reversed(list(self._implementing(hook))):
            name = self._call(plugin, hook, config=config, directory=directory)
            if name is None:
                continue
            if not isinstance(name, str) or self._claims.get("family", name) is None:
                raise UnknownResolvedFamilyError(plugin.name, name, self.family_names())
            return plugin.name, name
        return None

    def nearest(self, config: Mapping[str, Any], tensor_names: Sequence[str] = ()) -> list[str]:
        """Return up to three families whose names, config keys and tensor names are near a checkpoint's."""
        return nearest_families(self._claims, config, tensor_names)

    def before_stage(self, stage: str, settings: Mapping[str, Any]) -> None:
        """Tell plugins that a stage begins; HookFailedError names one that raises."""
        for plugin in self._implementing("edgellm_before_stage"):
            self._call(plugin, "edgellm_before_stage", stage=stage, settings=settings)

    def after_stage(self, stage: str, settings: Mapping[str, Any], seconds: float) -> None:
        """Tell plugins that a stage succeeded; HookFailedError names one that raises."""
        for plugin in self._implementing("edgellm_after_stage"):
            self._call(plugin, "edgellm_after_stage", stage=stage, settings=settings, seconds=seconds)

    def stage_failed(self, stage: str, settings: Mapping[str, Any], error: BaseException) -> None:
        """Tell plugins that a stage failed; HookFailedError names one that raises."""
        for plugin in self._implementing("edgellm_stage_failed"):
            self._call(plugin, "edgellm_stage_failed", stage=stage, settings=settings, error=error)

    def _add(self, candidate: Candidate, *, required: bool = False) -> None:
        """Load one plugin, or record why it can't take part; one that is required must."""
        try:
            plugin = self._loaded(candidate)
        except EdgellmError as error:
            if required:
                raise
            unfit = error.family if isinstance(error, TransformersRangeError) else ""
            self._entries.append(replace(_record(candidate), status="skipped", error=str(error), unfit=unfit))
        else:
            self._plugins.append(plugin)
            self._entries.append(plugin)

    def _loaded(self, candidate: Candidate) -> LoadedPlugin:
        """Import, check and register a plugin, and give it what it claims; nothing stays behind on failure."""
        plugin = LoadedPlugin(candidate=candidate, module=import_plugin(candidate))
        self._refuse_duplicate(plugin)
        check_hooks(self._manager, candidate.name, plugin.module)
        self._manager.register(plugin.module, f"{candidate.origin}:{candidate.name}")
        try:
            plugin.offers = self._offers(plugin)
            self._claims.take(plugin)
        except EdgellmError:
            self._manager.unregister(plugin.module)
            raise
        return plugin

    def _refuse_duplicate(self, plugin: LoadedPlugin) -> None:
        for other in self._plugins:
            same_name = (other.name, other.candidate.origin) == (plugin.name, plugin.candidate.origin)
            if same_name or other.module is plugin.module:
                where, other_where = plugin.candidate.location, other.candidate.location
                raise DuplicatePluginError(plugin.name, where, other.name, other_where)

    def _offers(self, plugin: LoadedPlugin) -> dict[Claim, Any]:
        """Return everything that a plugin registers during discovery."""
        pairs: list[tuple[Claim, Any]] = []
        requirement = "a sequence of ModelFamily subclasses"
        for item in self._register(plugin, "edgellm_register_families", requirement, is_subclass_of(ModelFamily)):
            family = make_family(plugin.name, item)
            pairs.append((Claim("family", family.name), family))
            pairs += [(Claim("model_type", value), family) for value in family.model_types]
            pairs += [(Claim("architectures", value), family) for value in family.architectures]
        requirement = "a sequence of Target subclasses with a name"
        for target in self._register(plugin, "edgellm_register_targets", requirement, is_named_subclass_of(Target)):
            pairs.append((Claim("target", target.name), target))
        requirement = "a sequence of QuantizationScheme subclasses with a name"
        for scheme in self._register(
            plugin, "edgellm_register_schemes", requirement, is_named_subclass_of(QuantizationScheme)
        ):
            pairs.append((Claim("scheme", scheme.name), scheme))
        requirement = "a sequence of click commands with a name"
        for command in self._register(plugin, "edgellm_register_commands", requirement, _is_named_command):
            pairs.append((Claim("command", command.name), command))
        hook, requirement = "edgellm_register_calibration_data", "a sequence of CalibrationData subclasses with a name"
        for data in self._register(plugin, hook, requirement, is_named_subclass_of(CalibrationData)):
            if data.name in CORE_CALIBRATION_DATA:
                raise ClaimConflictError(plugin.name, str(Claim("calibration data", data.name)), "edgellm", "core")
            pairs.append((Claim("calibration data", data.name), data))
        for claim in duplicates(claim for claim, _offer in pairs):
            raise RepeatedClaimError(plugin.name, str(claim))
        return dict(pairs)

    def _register(
        self, plugin: LoadedPlugin, hook: str, requirement: str, accept: Callable[[Any], bool]
    ) -> Sequence[Any]:
        """Call one plugin's registration hook, if it has it, and check what it returns."""
        if not self._implements(plugin, hook):
            return ()
        results = self._call(plugin, hook)
        if not results:  # pluggy drops None: the return statement was forgotten
            raise HookResultError(plugin.name, hook, requirement, None)
        return check_items(plugin.name, hook, results[0], requirement, accept)

    def _implements(self, plugin: LoadedPlugin, hook: str) -> bool:
        implementations = getattr(self._manager.hook, hook).get_hookimpls()
        return any(implementation.plugin is plugin.module for implementation in implementations)

    def _implementing(self, hook: str) -> Iterator[LoadedPlugin]:
        return (plugin for plugin in self._plugins if self._implements(plugin, hook))

    def _call(self, plugin: LoadedPlugin, hook: str, **arguments: Any) -> Any:
        """Call one plugin's implementation alone: in a call of all, one failure would end it for everybody."""
        others = [module for module in self._manager.get_plugins() if module is not plugin.module]
        try:
            with confined():
                return self._manager.subset_hook_caller(hook, others)(**arguments)
        except (KeyboardInterrupt, Stopped):
            raise
        except BaseException as error:  # foreign code runs here: anything it raises is its own failure
            raise HookFailedError(plugin.name, hook, error) from error

    def _selection(self, name: str, reason: str) -> Selection:
        found = self._claims.get("family", name)
        assert found is not None  # for mypy: callers looked the name up
        plugin, family = found
        return Selection(family=family, plugin=self._claims.record(plugin), reason=reason, plugins_digest=self.digest)


def _record(candidate: Candidate) -> PluginRecord:
    """Return the record of a plugin that was not loaded."""
    return PluginRecord(
        name=candidate.name,
        origin=candidate.origin,
        version=candidate.version,
        package=candidate.package,
        location=candidate.location,
    )


def _selected_names(setting: str | None, found: Iterable[str]) -> frozenset[str]:
    """Return the plugin names that ``EDGELLM_PLUGINS`` selects: all where it is unset, none where it is empty."""
    known = frozenset(found)
    if setting is None:
        return known
    names = [name.strip() for name in setting.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise UnknownNameError("plugin", name, known, hint="EDGELLM_PLUGINS lists the plugins to load.")
    return frozenset(names)


def _is_named_command(item: Any) -> bool:
    import click

    return isinstance(item, click.Command) and bool(item.name)


def _looks_like_rule(item: Any) -> bool:
    # Rule lives in a higher layer, in a module that imports graphsurgeon.
    return not isinstance(item, type) and all(callable(getattr(item, name, None)) for name in ("match", "rewrite"))
