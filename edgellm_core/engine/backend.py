"""Which engine builders this machine has, and which one a build uses."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from edgellm_core.engine.errors import (
    MissingBackendError,
    NoGpuError,
    OtherGpuError,
    UnknownComputeCapabilityError,
)
from edgellm_core.engine.gpu import find_gpus
from edgellm_core.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from edgellm_core.events import Reporter

EngineChoice = Literal["auto", "none", "tensorrt", "tensorrt-rtx"]
ENGINE_CHOICES: Final[tuple[EngineChoice, ...]] = ("auto", "none", "tensorrt", "tensorrt-rtx")


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """One of the packages with TensorRT's Python API. All that differs between them is in these fields.

    Attributes:
        name: value of ``--engine``, and the package's name in the index.
        module_name: what to import.
        extra: extra of edgellm that installs it.
        needs_gpu: True where the builder times kernels on the GPU, so that it can only build for that GPU.
        profile_names: optimization profiles of its engines (see ``profiles.py``).
    """

    name: str
    module_name: str
    extra: str
    needs_gpu: bool
    profile_names: tuple[str, ...]

    def installed(self) -> bool:
        """Return whether the package is there, without importing it."""
        return importlib.util.find_spec(self.module_name) is not None

    def load(self) -> Any:
        """Import the package.

        Raises:
            MissingBackendError: it is not installed, or its libraries can't be loaded.
        """
        if not self.installed():
            raise MissingBackendError(self.name, self.extra)
        try:
            return importlib.import_module(self.module_name)
        except (ImportError, OSError) as error:
            raise MissingBackendError(self.name, self.extra, str(error)) from error

    def version(self) -> str:
        """Return the version of the package; imports it."""
        return str(self.load().__version__)

    def target(self, requested: int | None) -> int | None:
        """Return the compute capability that an engine will be built for.

        Args:
            requested: value of ``--sm``; None for the default.

        Returns:
            ``requested`` or the GPU's own; None for TensorRT-RTX's default, an engine for every RTX GPU since Ampere.

        Raises:
            UnknownComputeCapabilityError: the package can't build for it.
            NoGpuError: the backend needs a GPU and none is visible.
            OtherGpuError: the backend builds for its own GPU only, which is another one.
        """
        if not self.needs_gpu:
            if requested is not None and requested not in (known := known_compute_capabilities(self.load())):
                raise UnknownComputeCapabilityError(self.name, requested, known)
            return requested
        gpus = find_gpus()
        if not gpus:
            raise NoGpuError(self.name)
        found = gpus[0].compute_capability
        if requested not in (None, found):
            raise OtherGpuError(self.name, int(requested or 0), found)
        return found


BACKENDS: Final[Mapping[str, Backend]] = {
    "tensorrt": Backend(
        name="tensorrt",
        module_name="tensorrt",
        extra="tensorrt",
        needs_gpu=True,
        profile_names=("prefill", "decode"),
    ),
    "tensorrt-rtx": Backend(
        name="tensorrt-rtx",
        module_name="tensorrt_rtx",
        extra="rtx",
        needs_gpu=False,
        profile_names=("generation",),
    ),
}


def known_compute_capabilities(module: Any) -> list[int]:
    """Return the values of ``ComputeCapability`` that name one architecture (NONE and CURRENT don't), sorted."""
    members = module.ComputeCapability.__members__
    return sorted(int(name.removeprefix("SM")) for name in members if name.startswith("SM"))


def choose_backend(
    requested: EngineChoice,
    report: Reporter,
    *,
    compute_capability: int | None = None,
    allowed: Container[str] = ENGINE_CHOICES,
) -> Backend | None:
    """Decide which package builds the engine; None for no engine.

    ``auto`` is ``tensorrt`` where a GPU (of ``compute_capability``, if given) and the package are there, else
    ``tensorrt-rtx`` where it is importable, else none, of those that are allowed; a choice is reported.

    Raises:
        UnknownNameError: ``requested`` is no choice.
        MissingBackendError: a package was asked for by name and can't be used.
    """
    if requested not in ENGINE_CHOICES:
        raise UnknownNameError("engine", requested, ENGINE_CHOICES)
    if requested == "none":
        return None
    if requested != "auto":
        backend = BACKENDS[requested]
        backend.load()
        return backend
    for backend in BACKENDS.values():
        if backend.name not in allowed or not backend.installed():
            continue
        if backend.needs_gpu and not _gpu_matches(compute_capability):
            continue
        try:
            backend.load()
        except MissingBackendError as error:
            report.note(str(error))
            continue
        report.note(f"Engine: {backend.name}, version {backend.version()}.")
        return backend
    return None


def _gpu_matches(compute_capability: int | None) -> bool:
    gpus = find_gpus()
    return bool(gpus) and compute_capability in (None, gpus[0].compute_capability)
