"""What decides whether an earlier result still holds: code, versions, plugin, settings and source."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import edgellm_core

if TYPE_CHECKING:
    from collections.abc import Iterable

TRACE_PACKAGES: Final = ("torch", "transformers", "onnx", "onnx-graphsurgeon", "onnxscript")
MANIFEST_PACKAGES: Final = ("edgellm", *TRACE_PACKAGES, "onnxruntime", "safetensors", "tokenizers")
VERIFICATION_PACKAGES: Final = ("torch", "transformers", "onnxruntime", "nvidia-modelopt")
"""What computes both sides of the comparison."""

COMPUTING_PACKAGES: Final = tuple(
    dict.fromkeys((*MANIFEST_PACKAGES, *VERIFICATION_PACKAGES, "numpy", "ml-dtypes", "gguf", "datasets", "jinja2"))
)
"""What the result of any stage may depend on."""


def digest_of(*parts: Any) -> str:
    """Return a sha256 over JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@cache
def code_digest() -> str:
    """Return a sha256 over the core's own source files."""
    folder = Path(edgellm_core.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the installed versions of packages, without importing them; missing ones are left out."""
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
