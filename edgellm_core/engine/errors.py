"""What can go wrong between a graph and an engine, one class per cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.errors import EdgellmError, UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class MissingBackendError(UserError):
    """The package of a requested backend can't be used."""

    def __init__(self, backend: str, extra: str, reason: str = "") -> None:
        """Build ``--engine tensorrt-rtx needs the package …``."""
        found = f"importing it failed ({reason})" if reason else "it is not installed"
        super().__init__(
            f"--engine {backend} needs the package {backend}, and {found}. "
            f'Run: pip install "edgellm[{extra}]", or use --engine none.'
        )


NO_BACKEND = 'neither TensorRT with a GPU nor TensorRT-RTX is here. Run: pip install "edgellm[rtx]".'
"""Why there is no engine of a graph that any package builds, and what to do."""


class NoBackendError(UserError):
    """No package that builds engines of the target can be used here."""

    def __init__(self, remedy: str = "") -> None:
        """Build ``No engine was built: …``.

        Args:
            remedy: what is missing and what to do, as sentences; by default for targets that any package builds.
        """
        super().__init__(f"No engine was built: {remedy or NO_BACKEND}")


class UnknownComputeCapabilityError(UserError):
    """``--sm`` names no architecture that the package can build for."""

    def __init__(self, backend: str, requested: int, known: Sequence[int]) -> None:
        """Name the package, the value and the values that work."""
        values = ", ".join(map(str, known))
        super().__init__(f"--sm must be a compute capability that {backend} builds for; got {requested}. Use {values}.")


class NoGpuError(UserError):
    """The backend builds on the GPU that will run the engine, and there is none."""

    def __init__(self, backend: str) -> None:
        """Build ``--engine tensorrt builds on an NVIDIA GPU, and none is visible.``."""
        super().__init__(
            f"--engine {backend} builds on the GPU that will run the engine, and no NVIDIA GPU is visible. "
            "Use --engine tensorrt-rtx, which needs none, or build on the device."
        )


class OtherGpuError(UserError):
    """The backend can only build for the GPU that is there."""

    def __init__(self, backend: str, requested: int, found: int) -> None:
        """Build ``--engine tensorrt builds for the GPU that is there (SM 89); got --sm 120.``."""
        super().__init__(
            f"--engine {backend} builds for the GPU that is there (SM {found}); got --sm {requested}. "
            "Leave --sm out, build on the other device, or use --engine tensorrt-rtx."
        )


class GraphParseError(EdgellmError):
    """The ONNX parser refused the graph."""

    resumable = True

    def __init__(self, path: Path, *, backend: str, node: str, operator: str, reason: str) -> None:
        """Build ``tensorrt-rtx can't take node '/Foo' (Foo) of model.onnx: <reason>``."""
        where = f"node {node!r} ({operator})" if node or operator else "the graph"
        super().__init__(
            f"{backend} can't take {where} of {path.name}: {reason}. "
            "Build without it (--engine none) or report the operator."
        )


class TooOldGpuError(UserError):
    """The GPU does not compute with what is quantized."""

    def __init__(self, lacking: Mapping[str, int], compute_capability: int) -> None:
        """Name what it lacks, with the least compute capability of each."""
        needs = ", ".join(f"{name} from SM {least}" for name, least in lacking.items())
        super().__init__(
            f"GPUs of compute capability {compute_capability} must compute with what is quantized; they lack {needs}. "
            "Choose another --sm or --precision, or use --engine none."
        )


class ZeroPointsError(UserError):
    """TensorRT takes no four-bit weights with zero points."""

    def __init__(self, backend: str) -> None:
        """Name the backend."""
        super().__init__(
            f"{backend} takes four-bit weights without zero points only, and those of this model have some (UINT4). "
            "Use --engine none and run the graph on ONNX Runtime, or quantize with a symmetric scheme."
        )


class UnexpectedGraphInputError(EdgellmError):
    """An input of the graph has no range in an optimization profile."""

    resumable = True

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        """Build ``Graph input 'x' [-1, 3] is none of …``."""
        super().__init__(
            f"Graph input {name!r} with shape {list(shape)} (-1 is dynamic) is no input of its target, so its "
            "range is unknown. Use --engine none."
        )


class OtherEngineBuilderError(UserError):
    """No engine of a target can be built with the package that was asked for."""

    def __init__(self, target: str, engine: str, backends: Sequence[str]) -> None:
        """Name the package and those that can."""
        super().__init__(
            f"Engines of target {target!r} are built with {' or '.join(backends)}; got --engine {engine}. "
            "Choose that, auto or none."
        )


class EngineLibraryError(UserError):
    """The plugins of a graph are not here."""

    def __init__(self, reason: str) -> None:
        """Build ``The engine needs TensorRT-Edge-LLM's plugin library, and ….``."""
        super().__init__(
            f"The engine needs TensorRT-Edge-LLM's plugin library, and {reason}. Install tensorrt-edgellm on the "
            "device, set EDGELLM_PLUGIN_PATH to libNvInfer_edgellm_plugin.so, or use --engine none."
        )


class EngineBuildError(EdgellmError):
    """The builder gave up on a graph that it had parsed."""

    resumable = True

    def __init__(self, path: Path, *, backend: str, reason: str) -> None:
        """Build ``tensorrt-rtx could not build an engine from model.onnx: <reason>``."""
        super().__init__(
            f"{backend} could not build an engine from {path.name}: {reason}. "
            "Try another --sm, smaller --max-batch-size, --max-input-len or --max-seq-len, or --engine none."
        )
