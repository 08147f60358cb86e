"""The NVIDIA GPUs of this machine, asked from the driver itself: no torch, no nvidia-smi."""

from __future__ import annotations

import ctypes
import ctypes.util
from dataclasses import dataclass
from typing import Final

# CUdevice_attribute values of cuda.h (CUDA Driver API, cuDeviceGetAttribute)
_COMPUTE_CAPABILITY_MAJOR: Final = 75
_COMPUTE_CAPABILITY_MINOR: Final = 76


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One visible GPU.

    Attributes:
        name: the driver's name for it.
        compute_capability: major * 10 + minor, for example 89 or 120.
        memory_bytes: its memory.
    """

    name: str
    compute_capability: int
    memory_bytes: int


def find_gpus() -> list[Gpu]:
    """Return the GPUs that the CUDA driver shows (``CUDA_VISIBLE_DEVICES`` counts); empty without driver or GPU."""
    driver = _load_driver()
    if driver is None or driver.cuInit(0) != 0:
        return []
    count = ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    return [gpu for ordinal in range(count.value) if (gpu := _describe(driver, ordinal))]


def cuda_version() -> str:
    """Return the highest CUDA version that the driver supports, ``13.0``; empty without driver."""
    driver = _load_driver()
    version = ctypes.c_int()
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return ""
    # the header cuda.h defines CUDA_VERSION as thousands for the major and tens for the minor version
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _load_driver() -> ctypes.CDLL | None:
    for name in ("libcuda.so.1", ctypes.util.find_library("nvcuda")):
        if name:
            try:
                return ctypes.CDLL(name)
            except OSError:  # no driver under this name
                continue
    return None


def _describe(driver: ctypes.CDLL, ordinal: int) -> Gpu | None:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    memory = ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    failures = (
        driver.cuDeviceGet(ctypes.byref(device), ordinal)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _COMPUTE_CAPABILITY_MAJOR, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _COMPUTE_CAPABILITY_MINOR, device)
        or driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
        or driver.cuDeviceGetName(name, len(name), device)
    )
    if failures:
        return None
    return Gpu(
        name=name.value.decode(errors="replace"),
        compute_capability=major.value * 10 + minor.value,
        memory_bytes=memory.value,
    )
