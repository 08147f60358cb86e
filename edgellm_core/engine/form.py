"""How an engine is made of a graph of one target: which packages can, and what they are told besides the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from edgellm_core.engine.profiles import input_ranges
from edgellm_core.targets import load_class

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgellm_core.contract import Target
    from edgellm_core.engine.backend import Backend
    from edgellm_core.engine.profiles import Profile, ProfileLimits


class EngineForm:
    """Graphs of target ``onnx``: standard operators, and the cache as inputs and outputs.

    Attributes:
        backends: packages that can build it.
        preview_features: names of ``tensorrt.PreviewFeature`` that it needs.
    """

    backends: ClassVar[tuple[str, ...]] = ("tensorrt", "tensorrt-rtx")
    preview_features: ClassVar[tuple[str, ...]] = ()

    def libraries(self, backend: Backend, compute_capability: int | None) -> Sequence[Path]:
        """Return the libraries with the plugins of the graph; none here.

        Args:
            backend: package that builds.
            compute_capability: of the GPU that it builds for; None for every one.

        Raises:
            EngineLibraryError: one that is needed is not there.
        """
        del backend, compute_capability
        return ()

    def input_ranges(self, name: str, shape: Sequence[int], profile: Profile) -> tuple[tuple[int, ...], ...]:
        """Return minimum, optimum and maximum shape of an input of the graph.

        Raises:
            UnexpectedGraphInputError: the form has no such input.
        """
        return input_ranges(name, shape, profile)

    def check_limits(self, folder: Path, limits: ProfileLimits) -> None:
        """Refuse limits with which the runtime would not compute what the original does; none here.

        Args:
            folder: folder of the graph.
            limits: what the engine has to take.

        Raises:
            InvalidSettingError: naming the limit.
        """
        del folder, limits

    def write_settings(self, folder: Path, limits: ProfileLimits) -> tuple[str, ...]:
        """Tell the runtime what the engine was built for; nothing here.

        Args:
            folder: folder of the graph.
            limits: of the engine.

        Returns:
            Names of the files that changed.
        """
        del folder, limits
        return ()


def engine_form(target: Target) -> EngineForm:
    """Return how engines of a target's graphs are made."""
    form: EngineForm = load_class(target.engine_form)()
    return form


def load_libraries(libraries: Sequence[Path]) -> list[Any]:
    """Load libraries, so that their plugins register; they stay loaded while the result lives.

    Raises:
        EngineLibraryError: one can't be loaded; its own message says why.
    """
    import ctypes

    from edgellm_core.engine.errors import EngineLibraryError

    try:
        return [ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL) for path in libraries]
    except OSError as error:
        reason = f"loading it failed: {error}"
        raise EngineLibraryError(reason) from error
