"""YAML files of edgellm and its plugins; errors name file and line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from edgellm_core.errors import UserError
from edgellm_core.untrusted import CorruptJsonError, FileLimitError, NotAFileError, UnreadableFileError, read_text
from edgellm_core.untrusted.limits import YAML_DEPTH, YAML_FILE, YAML_NODES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.abc import Traversable


class YamlFileError(UserError):
    """A file can't be read, or an entry in it is wrong."""

    def __init__(self, file: object, line: int | None, problem: str) -> None:
        """Build ``model_registry.yaml, line 7: …``.

        Args:
            file: the file, or its name.
            line: line of the offending entry, from 1; None where the file as a whole is meant.
            problem: what is wrong and what to write.
        """
        where = str(file) if line is None else f"{file}, line {line}"
        super().__init__(f"{where}: {problem}")


@dataclass(frozen=True)
class YamlFile:
    """A mapping with the places of its parts.

    Attributes:
        data: all scalars are strings, which pydantic converts: YAML would make a number or a date of a revision.
        root: the nodes.
    """

    data: dict[str, Any]
    root: yaml.MappingNode

    def line(self, location: Sequence[str | int]) -> int:
        """Return the line of what a pydantic location leads to, or of the last part on the way that exists."""
        node, line = self.root, _line(self.root)
        for part in location:
            if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = _line(node)
                continue
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            found = next(((key, value) for key, value in pairs if key.value == str(part)), None)
            if found is None:
                break
            line, node = _line(found[0]), found[1]
        return line


def read_yaml(source: Traversable, file: object, *, expected: str, error: type[YamlFileError]) -> YamlFile:
    """Read a file that holds one mapping.

    Args:
        source: the file.
        file: what errors call it.
        expected: what the mapping has to be, for errors.
        error: raised for whatever is wrong.

    Raises:
        YamlFileError: of the class ``error``: it can't be read, is not valid, holds something else or a key twice.
    """
    text = _text(source, file, error)
    try:
        loader = yaml.BaseLoader(text)
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise error(file, 1, f"must be {expected}.")
        for key in _repeated_keys(root):
            raise error(file, _line(key), f"{key.value!r} is there twice. Keep one of the two.")
        _require_size(root, file, error)
        return YamlFile(loader.construct_document(root), root)
    except RecursionError:
        raise error(file, None, f"is nested in more than {YAML_DEPTH.shown()}.") from None
    except yaml.reader.ReaderError as reason:
        line = text.count("\n", 0, reason.position) + 1
        raise error(file, line, f"is not valid YAML: {reason.reason}.") from reason
    except yaml.MarkedYAMLError as reason:
        line = reason.problem_mark.line + 1 if reason.problem_mark else 1
        raise error(file, line, f"is not valid YAML: {reason.problem}.") from reason


def _text(source: Traversable, file: object, error: type[YamlFileError]) -> str:
    try:
        return read_text(source, YAML_FILE) if isinstance(source, Path) else source.read_text(encoding="utf-8")
    except (CorruptJsonError, FileLimitError, NotAFileError, UnreadableFileError) as reason:
        raise error(file, None, f"can't be read: {reason.problem}.") from reason


def _require_size(root: yaml.Node, file: object, error: type[YamlFileError]) -> None:
    """Refuse a file whose aliases, written out, are more than anybody writes, or lead back to their own anchors."""
    sizes: dict[int, int] = {}
    above: set[int] = set()

    def size_of(node: yaml.Node, depth: int) -> int:
        if depth > YAML_DEPTH.most:
            raise error(file, _line(node), f"is nested in more than {YAML_DEPTH.shown()}.")
        if id(node) in above:
            raise error(file, _line(node), "an alias leads back to its own anchor. Write out what it stands for.")
        if id(node) not in sizes:
            above.add(id(node))
            sizes[id(node)] = 1 + sum(size_of(child, depth + 1) for child in _children(node))
            above.discard(id(node))
        return sizes[id(node)]

    if size_of(root, 0) > YAML_NODES.most:
        raise error(file, None, f"has more than {YAML_NODES.shown()}. Write it without aliases of aliases.")


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _repeated_keys(node: yaml.Node, seen: set[int] | None = None) -> Iterator[yaml.ScalarNode]:
    """Yield scalar keys that their mapping has already; YAML itself lets the last one win."""
    seen = set() if seen is None else seen
    if id(node) in seen:  # an alias stands for it once more
        return
    seen.add(id(node))
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


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
