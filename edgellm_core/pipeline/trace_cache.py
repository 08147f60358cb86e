"""Traces by what they depend on, so that a second build of an architecture imports neither torch nor transformers."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.pipeline.fingerprint import TRACE_PACKAGES, code_digest, digest_of, installed_versions
from edgellm_core.settings import cache_directory

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edgellm_core.host import Selection
    from edgellm_core.tracing.template import Template

IRRELEVANT_KEYS: Final = frozenset(
    {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "quantization_config"}
)
"""Keys of config.json that differ between checkpoints of one architecture and never reach the trace."""

FILES: Final = ("template.json", "template.onnx")
DIGEST: Final = "digest"
"""What an entry of the cache holds: the two files of a trace, and a sha256 over them."""


def trace_key(
    config: Mapping[str, Any],
    tensor_names: Iterable[str],
    selection: Selection,
    precision: str,
    *,
    full_depth: bool,
    own_code: str = "",
) -> str:
    """Return the key of a trace: over config.json, names of tensors, versions, plugins, settings and code.

    ``own_code`` is the digest of the checkpoint's own code; empty where that does not run.
    """
    relevant = {key: value for key, value in config.items() if key not in IRRELEVANT_KEYS}
    family = [selection.family.name, selection.plugin.name, selection.plugins_digest]
    return digest_of(
        relevant,
        sorted(tensor_names),
        installed_versions(TRACE_PACKAGES),
        family,
        [precision, full_depth],
        [code_digest(), own_code],
    )


def cached_template(key: str) -> Template | None:
    """Return a stored template, or None."""
    folder = _folder(key)
    if not folder.is_dir():
        return None
    from edgellm_core.tracing.template import Template

    try:
        if (folder / DIGEST).read_text(encoding="utf-8") == _digest_of(folder):
            return Template.load(folder)
    except (ValueError, OSError):
        pass
    shutil.rmtree(folder, ignore_errors=True)  # damaged; traced anew
    return None


def store_template(key: str, template: Template) -> None:
    """Store a template under its key, whole or not at all."""
    folder = _folder(key)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
    try:
        template.save(temporary)
        (temporary / DIGEST).write_text(_digest_of(temporary), encoding="utf-8")
        temporary.rename(folder)
    except OSError:  # another build stored the same trace first
        shutil.rmtree(temporary, ignore_errors=True)


def _digest_of(folder: Path) -> str:
    """Return a sha256 over the files of an entry."""
    digest = hashlib.sha256()
    for name in FILES:
        digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return digest.hexdigest()


def _folder(key: str) -> Path:
    return cache_directory() / "traces" / key
