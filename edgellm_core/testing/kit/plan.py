"""What one run of the kit checks: families, models, known failures."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from edgellm_core.errors import EdgellmError, UnknownNameError
from edgellm_core.host import PluginHost
from edgellm_core.registry import ModelRegistry
from edgellm_core.testing.errors import BrokenPluginError, NoFamilyError, WeightsDirectoryError
from edgellm_core.testing.kit.known_failures import known_failures
from edgellm_core.testing.kit.skips import SkipReason

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pytest

    from edgellm_core.contract import ModelFamily
    from edgellm_core.testing.kit.case import Case, TinyModel

Per = Literal["family", "model"]

WITHOUT_TINY_CONFIG: Final = "generic"
"""The fallback family claims nothing, so it has nothing to prove by itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseKey:
    """One check of one family or model, before anything is built.

    Attributes:
        family: name of the family.
        level: of the check.
        check: its name.
        model: name in the registry; empty where the check is not about real weights.
        precision: of that model.
    """

    family: str
    level: int
    check: str
    model: str = ""
    precision: str = ""

    @property
    def id(self) -> str:
        """Return for example ``qwen3-L1-stamped_equals_full``."""
        return "-".join(filter(None, (self.family, f"L{self.level}", self.check, self.model, self.precision)))


@dataclass(kw_only=True)
class Plan:
    """What one run checks.

    Attributes:
        host: the plugins.
        families: the families, in order.
        unfit: family whose range excludes the installed transformers → its error; each of its checks is skipped.
        known_failures: for each of them, check → why it is expected to fail.
        registry: known checkpoints.
        weights: model → directory that the user gave.
        download: whether weights may be downloaded.
        record: where records of level 4 go; None for nowhere.
        plugin_paths: folders with plugins.
        models: tiny model of each family that was asked for, in float32.
        half_models: the same in float16.
    """

    host: PluginHost
    families: Sequence[ModelFamily]
    unfit: Mapping[str, str]
    known_failures: Mapping[str, Mapping[str, str]]
    registry: ModelRegistry
    weights: dict[str, Path]
    download: bool
    record: Path | None
    plugin_paths: tuple[Path, ...]
    models: dict[str, TinyModel] = field(default_factory=dict)
    half_models: dict[str, TinyModel] = field(default_factory=dict)

    @classmethod
    def from_config(cls, config: pytest.Config) -> Plan:
        """Read the options.

        Raises:
            pytest.UsageError: they name what does not exist, or there is no family to check.
        """
        import pytest

        record = config.getoption("edgellm_record")
        paths = tuple(Path(path) for path in config.getoption("edgellm_plugin_path"))
        try:
            host = PluginHost.load(paths, skip_named=True)
            registry = ModelRegistry.of_plugins(host.records)
            wanted = config.getoption("edgellm_family")
            unfit = unfit_families(host, wanted)
            families = chosen_families(host, wanted)
            return cls(
                host=host,
                families=families,
                unfit=unfit,
                known_failures={family.name: known_failures(family) for family in families},
                registry=registry,
                weights=dict(_weights(config.getoption("edgellm_weights"), registry)),
                download=config.getoption("edgellm_download"),
                record=Path(record) if record else None,
                plugin_paths=paths,
            )
        except EdgellmError as error:
            raise pytest.UsageError(str(error)) from error

    def names(self) -> list[str]:
        """Return the names of the families."""
        return [family.name for family in self.families]

    def broken(self) -> list[str]:
        """Return a sentence for each plugin that could not be used."""
        return [
            f"broken pack {record.name!r} ({record.origin}): {record.error}"
            for record in self.host.records
            if record.status == "skipped"
        ]

    def cases(self, check: str, *, level: int, per: Per) -> list[Any]:
        """Return the parameters of one check: one for each family, or for each precision of each of its models."""
        import pytest

        parameters = []
        for family in self.families:
            for key in self._keys(family, check, level, per):
                marks: list[pytest.MarkDecorator] = []
                reason = self.known_failures[family.name].get(f"L{level}-{check}")
                if reason is not None:
                    marks.append(pytest.mark.xfail(reason=reason, strict=True))
                if per == "model" and not key.model:
                    marks.append(pytest.mark.skip(reason=SkipReason.NO_REGISTRY_ENTRY.text()))
                parameters.append(pytest.param(key, id=key.id, marks=marks))
        for name, error in self.unfit.items():
            key = CaseKey(family=name, level=level, check=check)
            skipped = pytest.mark.skip(reason=SkipReason.NEEDS_TRANSFORMERS.text(error))
            parameters.append(pytest.param(key, id=key.id, marks=[skipped]))
        return parameters

    def open(self, key: CaseKey, temporary: pytest.TempPathFactory) -> Case:
        """Return a case with what its check needs."""
        from edgellm_core.testing.kit.case import Case, TinyModel

        if key.family not in self.models:
            self.models[key.family] = TinyModel(self.host, key.family, temporary.mktemp(key.family))
        return Case(key=key, plan=self, tiny=self.models[key.family])

    def _keys(self, family: ModelFamily, check: str, level: int, per: Per) -> Iterator[CaseKey]:
        if per == "family":
            yield CaseKey(family=family.name, level=level, check=check)
            return
        models = [name for name in self.registry.names() if self.registry.get(name).family == family.name]
        for model in models:
            for precision in self.registry.get(model).precisions:
                yield CaseKey(family=family.name, level=level, check=check, model=model, precision=precision)
        if not models:
            yield CaseKey(family=family.name, level=level, check=check)


def chosen_families(host: PluginHost, names: Sequence[str]) -> list[ModelFamily]:
    """Return the named families, or all that plugins bring.

    Args:
        host: the plugins.
        names: names of families, or of plugins, which stand for all their families; empty for every family.

    Raises:
        EdgellmError: a name is unknown, or its plugin is broken; no plugin brings a family.
    """
    known = [name for name in host.family_names() if name != WITHOUT_TINY_CONFIG]
    unfit = unfit_families(host, names)
    wanted: list[str] = []
    for name in names:
        if name in unfit or any(record.name == name and record.unfit in unfit for record in host.records):
            continue
        wanted += [name] if name in known else _families_of_plugin(host, name, known)
    if not (wanted or known or unfit):
        raise NoFamilyError
    return [host.select({}, forced=name).family for name in dict.fromkeys(wanted if names else known)]


def unfit_families(host: PluginHost, names: Sequence[str]) -> dict[str, str]:
    """Return the named families, or all, whose range excludes the installed transformers, and the error of each.

    Args:
        host: the plugins.
        names: names of families or plugins; empty for every family.
    """
    return {
        record.unfit: record.error or ""
        for record in host.records
        if record.unfit
        and record.unfit not in host.family_names()
        and (not names or record.unfit in names or record.name in names)
    }


def _families_of_plugin(host: PluginHost, name: str, known: Sequence[str]) -> list[str]:
    records = [record for record in host.records if record.name == name]
    families = [family for record in records for family in record.families if family != WITHOUT_TINY_CONFIG]
    if families:
        return families
    broken = next((record.error for record in records if record.error), None)
    if broken is not None:
        raise BrokenPluginError(name, broken)
    raise UnknownNameError("family or plugin with a family", name, known)


def _weights(entries: Sequence[str], registry: ModelRegistry) -> Iterator[tuple[str, Path]]:
    for entry in entries:
        model, _, directory = entry.partition("=")
        registry.get(model)
        if not Path(directory).is_dir():
            raise WeightsDirectoryError(entry)
        yield model, Path(directory)
