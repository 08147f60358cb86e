"""Which entries are meant: those of the families' files by tier and family, or one that the user writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgellm_core.errors import UnknownNameError
from edgellm_core.matrix.entry import MatrixEntry, parse
from edgellm_core.matrix.errors import MatrixFileError, NoEntriesError, OwnerlessEntryError
from edgellm_core.matrix.files import MATRIX_FILE, TIERS, MatrixItem, read_matrix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from edgellm_core.host import PluginHost
    from edgellm_core.registry import ModelRegistry


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixCase:
    """One entry of one family.

    Attributes:
        family: name of the family.
        tier: ``l0`` or ``l1``; None for an entry that is in no file.
        entry: the entry.
        xfail: why it is expected to fail; None where it is expected to pass.
    """

    family: str
    tier: str | None
    entry: MatrixEntry
    xfail: str | None = None

    def __str__(self) -> str:
        return f"{self.family} {self.entry}"


def select_cases(
    host: PluginHost,
    registry: ModelRegistry,
    *,
    tier: str | None = None,
    family: str | None = None,
    entry: str | None = None,
    skipped: Callable[[str], None] | None = None,
) -> list[MatrixCase]:
    """Return the cases that are meant, family by family in the order of their files.

    Args:
        host: the plugins; only files of families that are meant are read.
        registry: the models that entries may name.
        tier: one tier; None for all.
        family: one family; None for all.
        entry: one entry, in whatever order its tokens are. If no file has it, it belongs to ``family``, or to the
            family that the registry has for its model.
        skipped: told of a file that is wrong, whose entries are left out; None, or where its family is asked for, makes
            it an error.

    Raises:
        UnknownNameError: there is no such tier, family or model.
        MatrixSyntaxError: ``entry`` is none.
        MatrixFileError: a file is wrong.
        NoEntriesError: nothing is selected.
        OwnerlessEntryError: no file has ``entry``, and nothing says whose it is.
    """
    if tier is not None and tier not in TIERS:
        raise UnknownNameError("tier", tier, TIERS)
    if family is not None and family not in host.family_names():
        raise UnknownNameError("family", family, host.family_names())
    wanted = None if entry is None else parse(entry, host.schemes())
    tell = skipped if family is None else None
    found = [
        case
        for name, folder in _families(host)
        if family in {None, name}
        for case in _read(name, folder, host, registry, tell)
        if tier in {None, case.tier} and wanted in {None, case.entry}
    ]
    if found:
        return found
    if wanted is None or tier is not None:
        raise NoEntriesError(tier=tier, family=family, entry=entry)
    return [MatrixCase(family=family or _owner(wanted, registry), tier=None, entry=wanted)]


def _read(
    family: str, folder: Path, host: PluginHost, registry: ModelRegistry, skipped: Callable[[str], None] | None
) -> list[MatrixCase]:
    """Return the cases of one family; none, and the reason told, where its file is wrong and that is to be skipped."""
    try:
        return list(_cases_of(family, folder, host, registry))
    except MatrixFileError as error:
        if skipped is None:
            raise
        skipped(f"Skipped: {error}")
        return []


def _owner(entry: MatrixEntry, registry: ModelRegistry) -> str:
    if entry.tiny:
        raise OwnerlessEntryError(str(entry))
    return registry.get(entry.model.lower()).family


def _families(host: PluginHost) -> Iterator[tuple[str, Path]]:
    """Yield the families and their folders, those of the core first, then in the order of discovery."""
    for record in host.records:
        for name in record.families:
            yield name, host.select({}, forced=name).family.folder()


def _cases_of(family: str, folder: Path, host: PluginHost, registry: ModelRegistry) -> Iterable[MatrixCase]:
    """Yield a family's cases. Families of one folder share a file: each builds its own tiny checkpoint and models."""
    path = folder / MATRIX_FILE
    if not path.is_file():
        return
    sharing = {name for name, other in _families(host) if other == folder}
    for item in read_matrix(path, host.schemes()):
        if item.entry.tiny or _family_of_model(path, item, sharing, registry) == family:
            yield MatrixCase(family=family, tier=item.tier, entry=item.entry, xfail=item.xfail)


def _family_of_model(path: Path, item: MatrixItem, sharing: set[str], registry: ModelRegistry) -> str:
    """Return the family that the registry has for an item's model."""
    try:
        owner = registry.get(item.entry.model.lower()).family
    except UnknownNameError as error:
        raise MatrixFileError(path, item.line, f"{error} An entry names a model of model_registry.yaml.") from error
    if owner not in sharing:
        problem = f"{item.entry.model!r} is a model of family {owner!r}. Move the entry to the file of that family."
        raise MatrixFileError(path, item.line, problem)
    return owner
