"""Runs a graph of target ``edge-llm`` that is held in memory, or a part of one, with any of its tensors as outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.errors import one_line
from edgellm_core.runtime.errors import GraphLoadError
from edgellm_core.runtime.paged.functions import add_functions
from edgellm_core.runtime.paged.session import PagedGraph, read_files
from edgellm_core.verification.session import open_graph, prepare_graph

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnx


class PagedGraphSession(PagedGraph):
    """What ``GraphSession`` is to graphs of target ``onnx``."""

    def __init__(self, model: onnx.ModelProto, folder: Path, *, extra: Sequence[str] = ()) -> None:
        """Load a graph.

        Args:
            model: what ``prepare`` returned, or a part of it.
            folder: where its external data and its files lie.
            extra: names of further tensors to show.

        Raises:
            GraphLoadError: ONNX Runtime can't load it.
        """
        try:
            session = open_graph(model, folder, extra)
        except Exception as error:  # the exceptions of ONNX Runtime and protobuf share no base but Exception
            raise GraphLoadError(folder / "model.onnx", one_line(error)) from error
        super().__init__(session, read_files(folder), extra=extra)

    @staticmethod
    def prepare(model: onnx.ModelProto, folder: Path, *, widened: bool) -> onnx.ModelProto:
        """Return a copy of a graph that ONNX Runtime can load, its plugins written as functions.

        Raises:
            PluginAttributeError: a plugin does what has no reference on the CPU.
        """
        import onnx

        graph = onnx.ModelProto()
        graph.CopyFrom(model)
        add_functions(graph)
        return prepare_graph(graph, folder, widened=widened)
