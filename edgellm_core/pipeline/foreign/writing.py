"""Writes a rewritten graph: its weights stay, or are copied, in their files; the graph appears in one rename."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm_core.bundle.errors import OutputNotWritableError
from edgellm_core.bundle.files import sync
from edgellm_core.pipeline.foreign.errors import OutputExistsError, SameFileError
from edgellm_core.pipeline.foreign.tables import write_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import onnx
    import onnx_graphsurgeon as gs

    from edgellm_core.contract import Table
    from edgellm_core.pipeline.foreign.reading import ForeignGraph


def refuse_output(path: Path, out: Path, *, force: bool) -> None:
    """Refuse an output before any work is done.

    Raises:
        SameFileError: it is the input.
        OutputExistsError: it exists, and ``force`` is false or it is not a file.
        OutputNotWritableError: its folder does not exist.
    """
    if out.exists() and path.exists() and out.samefile(path):
        raise SameFileError(out)
    if out.is_dir():
        raise OutputExistsError(out, "It is a folder; name a file.")
    if (out.exists() or out.is_symlink()) and not force:
        raise OutputExistsError(out, "Choose another name, or replace it with --force.")
    if not out.parent.is_dir():
        raise OutputNotWritableError(out, NotADirectoryError(2, f"there is no folder {out.parent}"))


def finished_model(
    graph: gs.Graph, foreign: ForeignGraph, prepared: onnx.ModelProto, *, keeps_interface: bool
) -> onnx.ModelProto:
    """Return the graph with the initializers of the file; what the file holds elsewhere stays there.

    Args:
        graph: the rewritten graph.
        foreign: the file it was made from.
        prepared: has the opsets.
        keeps_interface: whether its outputs are those of the file.
    """
    import onnx
    import onnx_graphsurgeon as gs

    exported = gs.export_onnx(graph)
    model = onnx.ModelProto()
    model.CopyFrom(prepared)
    model.graph.CopyFrom(exported.graph)
    model.graph.doc_string = foreign.model.graph.doc_string
    if keeps_interface:
        del model.graph.output[:]
        model.graph.output.extend(foreign.model.graph.output)
    used = {name for node in exported.graph.node for name in node.input} | {o.name for o in exported.graph.output}
    made = [tensor for tensor in exported.graph.initializer if tensor.name not in foreign.initializers]
    kept = [tensor for name, tensor in foreign.initializers.items() if _is_kept(name, used, exported)]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, *made])
    _name_domains(model)
    return model


def _is_kept(name: str, used: set[str], exported: onnx.ModelProto) -> bool:
    return name in used or any(value.name == name for value in exported.graph.input)


def _name_domains(model: onnx.ModelProto) -> None:
    """Drop opsets of domains that no node is left of; domains that rules brought have version 1."""
    from onnx import helper

    from edgellm_core.surgery.opset import graphs_of

    domains = {node.domain for graph in graphs_of(model.graph) for node in graph.node} | {""}
    versions = dict.fromkeys(sorted(domains), 1) | {item.domain: item.version for item in model.opset_import}
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(name, versions[name]) for name in sorted(domains))


@dataclass(frozen=True)
class Staged:
    """Files that have their names only when all is well.

    Attributes:
        model: the graph.
        tables: tables beside it, by their later names.
    """

    model: Path
    tables: Mapping[str, Path]


@contextmanager
def staged(
    model: onnx.ModelProto, foreign: ForeignGraph, out: Path, tables: Mapping[str, Table], *, force: bool
) -> Iterator[Staged]:
    """Write a graph beside its output under another name, and move it there when the body ends without an error.

    Args:
        model: the graph.
        foreign: the file it was made from; data files that the graph needs are copied where ``out`` has another folder.
        out: where it goes.
        tables: files beside it, each with one initializer of ``foreign``.
        force: replace existing tables.

    Yields:
        The files to look at.

    Raises:
        OutputExistsError: another file is where one has to go.
        OutputNotWritableError: the system refuses.
    """
    work = Staged(_staged_name(out), {name: _staged_name(out.with_name(name)) for name in tables})
    for name in tables:
        if out.with_name(name).exists() and not force:
            raise OutputExistsError(out.with_name(name), "Choose another folder, or replace it with --force.")
    copied: list[Path] = []
    try:
        try:
            copied = _copy_data(model, foreign.path.parent, out.parent)
            for name, table in tables.items():
                write_table(foreign, table, work.tables[name], Path(name).stem)
            work.model.write_bytes(model.SerializeToString())
            sync(work.model)
        except OSError as error:
            raise OutputNotWritableError(out, error) from error
        yield work
        for name, path in work.tables.items():
            path.replace(out.with_name(name))
        work.model.replace(out)
        copied = []
        sync(out.parent)
    finally:
        for path in (work.model, *work.tables.values(), *copied):
            path.unlink(missing_ok=True)


def _staged_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.edgellm-{os.getpid()}")


def _copy_data(model: onnx.ModelProto, source: Path, folder: Path) -> list[Path]:
    """Copy the data files that a graph needs to another folder, and return those that were not there."""
    names = {
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    if source.resolve() == folder.resolve():
        return []
    copied: list[Path] = []
    try:
        for name in sorted(names):
            original, copy = source / name, folder / name
            if _is_copied(original, copy):
                continue
            copy.parent.mkdir(parents=True, exist_ok=True)
            copied.append(copy)
            shutil.copy2(original, copy)  # within the kernel, in pieces
            sync(copy)
    except BaseException:
        for path in copied:
            path.unlink(missing_ok=True)
        raise
    return copied


def _is_copied(original: Path, copy: Path) -> bool:
    """Say whether there is an earlier copy, equal in size and time.

    Raises:
        OutputExistsError: there is another file.
    """
    if not copy.exists():
        return False
    first, second = original.stat(), copy.stat()
    if (first.st_size, first.st_mtime_ns) == (second.st_size, second.st_mtime_ns):
        return True
    raise OutputExistsError(copy, "The graph's data has to go there: choose another folder, or remove it.")
