"""Runs a graph of target ``edge-llm`` that is held in memory, with any of its tensors as further outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.errors import one_line
from edgellm_core.runtime.errors import GraphLoadError
from edgellm_core.runtime.paged.functions import add_functions
from edgellm_core.runtime.paged.session import EMBEDDED, PagedGraph, read_files
from edgellm_core.verification.rounding_points import embeds_are_made
from edgellm_core.verification.session import load_graph

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import onnx


class PagedGraphSession(PagedGraph):
    """What ``GraphSession`` is to graphs of target ``onnx``."""

    def __init__(
        self, model: onnx.ModelProto, folder: Path, *, extra: Sequence[str] = (), widened: bool = False
    ) -> None:
        """Load the graph.

        Args:
            model: the graph; not changed.
            folder: where its external data and its files lie.
            extra: names of further tensors to show.
            widened: run it with its types raised to float32.

        Raises:
            GraphLoadError: ONNX Runtime can't load it.
            PluginAttributeError: a plugin does what has no reference on the CPU.
        """
        import onnx

        graph = onnx.ModelProto()
        graph.CopyFrom(model)
        add_functions(graph)
        shown = [name for name in extra if name != EMBEDDED or embeds_are_made(graph)]
        try:
            session = load_graph(graph, folder, shown, widened=widened)
        except Exception as error:  # the exceptions of ONNX Runtime and protobuf share no base but Exception
            reason = one_line(error)
            raise GraphLoadError(folder / "model.onnx", reason) from error
        super().__init__(session, read_files(folder), extra=extra)
