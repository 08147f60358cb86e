"""Opens a bundle and checks that it is whole."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgellm_core.bundle.errors import BundleReplacedError, DamagedBundleError, NotABundleError
from edgellm_core.bundle.files import sha256_of
from edgellm_core.bundle.manifest import FileRecord, Manifest, read_manifest
from edgellm_core.bundle.publishing import aside
from edgellm_core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator


GRAPH: Final = "llm/model.onnx"
"""The ONNX graph, as the manifest lists it."""

ENGINE: Final = "llm/llm.engine"
"""The engine. One that a build was stopped at lies there unlisted, and nothing loads it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A bundle on disk.

    Attributes:
        directory: its folder.
        manifest: contents of its ``bundle.json``.
        identity: device and inode of the folder that was read; a build replaces the folder as a whole.
    """

    directory: Path
    manifest: Manifest
    identity: tuple[int, int] | None

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Refuse what the body read, and explain what it failed at, where another bundle lies there meanwhile.

        Raises:
            BundleReplacedError: a build replaced it.
        """
        try:
            yield
        except Exception as error:
            if self.identity != _identity(self.directory):
                raise BundleReplacedError(self.directory) from error
            raise
        self.require_current()

    def require_current(self) -> None:
        """Refuse what was read from the bundle where another one lies there meanwhile.

        Raises:
            BundleReplacedError: a build replaced it.
        """
        if self.identity != _identity(self.directory):
            raise BundleReplacedError(self.directory)

    @property
    def llm(self) -> Path:
        """Folder of the graph, its weights, config and tokenizer."""
        return self.directory / "llm"

    @property
    def model_path(self) -> Path:
        """The ONNX graph."""
        return self.llm / "model.onnx"

    @property
    def engine_path(self) -> Path | None:
        """The TensorRT engine, if there is one."""
        return self.directory / ENGINE if self.manifest.engine else None


def load_bundle(path: Path, *, check_digests: bool = True) -> Bundle:
    """Open a bundle after checking that each of its files is there with the size and digest of the manifest.

    Args:
        path: folder of the bundle.
        check_digests: also read all files (about 1.5 GB/s a core) and compare their SHA-256; sizes are always checked.

    Raises:
        NotABundleError: the folder holds no bundle.
        UnknownSchemaError: the manifest is of another schema version.
        InvalidManifestError: the manifest is malformed.
        DamagedBundleError: a file is missing or differs.
    """
    directory = Path(path)
    if not directory.exists() and aside(directory).is_dir():
        kept = str(aside(directory))
        raise NotABundleError(
            directory, f"a replacement was interrupted, and the old bundle lies in {kept!r}; rename it"
        )
    identity = _identity(directory)
    while True:
        try:
            return _read(directory, identity, check_digests=check_digests)
        except UserError:
            replacement = _identity(directory)
            if replacement == identity:
                raise
            identity = replacement


def _read(directory: Path, identity: tuple[int, int] | None, *, check_digests: bool) -> Bundle:
    manifest = read_manifest(directory)
    require_listed(directory, manifest)
    for record in manifest.files:
        _check_size(directory, record)
    if check_digests:
        for record in manifest.files:
            _check_digest(directory, record)
    bundle = Bundle(directory=directory, manifest=manifest, identity=identity)
    bundle.require_current()
    return bundle


def require_listed(directory: Path, manifest: Manifest) -> None:
    """Refuse a bundle with a link, without a listed graph, or with a file beside the graph that has no digest.

    A file that is not listed would be read without being compared: a chat template, a generation config, weights.

    Raises:
        DamagedBundleError: naming the file.
    """
    listed = {record.path for record in manifest.files}
    if GRAPH not in listed:
        raise DamagedBundleError(directory, GRAPH, "nothing of it", "a bundle without a listed graph")
    folder = (directory / GRAPH).parent
    for path in (folder, *sorted(folder.rglob("*"))):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            raise DamagedBundleError(directory, name, "a file", "a link")
        ignored = path.is_dir() or path.name.startswith(".") or name == ENGINE
        if not ignored and name not in listed:
            raise DamagedBundleError(directory, name, "nothing of it", "a file")
    for record in manifest.files:
        parts = [directory / record.path, *(directory / record.path).parents]
        if any(part.is_symlink() for part in parts[: parts.index(directory)]):
            raise DamagedBundleError(directory, record.path, "a file", "a link")


def _identity(directory: Path) -> tuple[int, int] | None:
    try:
        status = directory.stat()
    except OSError:  # reading says what is wrong
        return None
    return status.st_dev, status.st_ino


def _check_size(directory: Path, record: FileRecord) -> None:
    file = directory / record.path
    expected = f"{record.bytes} bytes"
    if not file.is_file():
        raise DamagedBundleError(directory, record.path, expected, "no such file")
    size = file.stat().st_size
    if size != record.bytes:
        raise DamagedBundleError(directory, record.path, expected, f"{size} bytes")


def _check_digest(directory: Path, record: FileRecord) -> None:
    try:
        found = sha256_of(directory / record.path)
    except OSError as error:
        raise DamagedBundleError(directory, record.path, "a readable file", str(error.strerror or error)) from error
    if found != record.sha256:
        raise DamagedBundleError(directory, record.path, f"sha256 {record.sha256}", found)
