"""Opens a model: wherever it comes from, the result is a directory of safetensors with an index of its tensors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgellm_core.checkpoint.json_files import read_config
from edgellm_core.checkpoint.location import Location, SourceKind, locate
from edgellm_core.checkpoint.own_code import code_digest
from edgellm_core.checkpoint.shards import index_tensors, read_weight_files
from edgellm_core.checkpoint.tokenizer_files import tokenizer_files
from edgellm_core.untrusted import read_json_object

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgellm_core.checkpoint.safetensors_header import SafetensorsHeader
    from edgellm_core.checkpoint.tensors import TensorEntry, TensorIndex
    from edgellm_core.events import Reporter
    from edgellm_core.host import PluginHost
    from edgellm_core.registry import ModelRegistry


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceRecord:
    """Where a checkpoint came from, for the bundle's manifest.

    Attributes:
        kind: how it was given.
        id: hub repository, package, or the path as the user gave it.
        revision: commit of the hub repository, or version of the package.
        digest: sha256 that identifies the model. For a directory or the hub: over config.json, then, file by file in
            the order of their names, name, size and header of each safetensors file (which holds names, types, shapes
            and byte ranges); in a bundle also over the bytes of these files (``checkpoint.values``). For GGUF and
            packages: over the file's bytes, or over the digests of its parts.
    """

    kind: SourceKind
    id: str
    revision: str | None
    digest: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A model on disk. Its weights were not read.

    Attributes:
        directory: config.json, safetensors and tokenizer files lie here.
        source: where it came from.
        config: contents of config.json.
        tensors: every tensor by name.
        headers: headers of the safetensors files.
        duplicates: tensors that several files hold: the entry in ``tensors`` and another one, whose bytes may differ.
        converted_from: weight files of the source where those of ``headers`` were converted from them.
        remarks: sentences about disagreements of its files that have no consequence.
        trust_remote_code: the user lets the checkpoint's own modeling code run.
    """

    directory: Path
    source: SourceRecord
    config: Mapping[str, Any]
    tensors: TensorIndex
    headers: Sequence[SafetensorsHeader]
    duplicates: Sequence[tuple[TensorEntry, TensorEntry]] = ()
    converted_from: Sequence[Path] = ()
    remarks: Sequence[str] = ()
    trust_remote_code: bool = False

    @property
    def generation_config(self) -> Mapping[str, Any]:
        """Contents of generation_config.json, else the token ids of config.json, as transformers derives them."""
        path = self.directory / "generation_config.json"
        if path.is_file():
            return read_json_object(path)
        keys = ("bos_token_id", "eos_token_id", "pad_token_id")
        return {key: self.config[key] for key in keys if self.config.get(key) is not None}

    @property
    def source_files(self) -> tuple[Path, ...]:
        """The weight files of the source."""
        return tuple(self.converted_from) or tuple(header.file for header in self.headers)

    def tokenizer_files(self) -> tuple[Path, ...]:
        """Return the files of the tokenizer and chat template that exist."""
        return tokenizer_files(self.directory)

    def code_digest(self) -> str:
        """Return a sha256 over the checkpoint's own Python files; empty where they are not trusted and never run."""
        return code_digest(self.directory) if self.trust_remote_code else ""

    def fingerprint(self) -> str:
        """Return a sha256 that changes with every file that a build reads, without reading weights.

        Times of modification can be set, so what a file system alone sets counts too: inode and time of change.

        Over config.json, generation_config.json, settings of the quantization and tokenizer files (bytes); path, inode,
        size, times of modification and change in ns and header of each safetensors file; and over the checkpoint's own
        code where that is trusted.
        """
        digest = hashlib.sha256()
        names = ("generation_config.json", "hf_quant_config.json", "quantize_config.json", "quant_config.json")
        extras = [path for path in (self.directory / name for name in names) if path.is_file()]
        for path in (self.directory / "config.json", *extras, *self.tokenizer_files()):
            _add(digest, path.relative_to(self.directory).as_posix().encode(), path.read_bytes())
        for header in self.headers:
            status = header.file.stat()
            seen = f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
            _add(digest, str(header.file.resolve()).encode(), seen.encode(), header.raw)
        _add(digest, self.code_digest().encode())
        return digest.hexdigest()


def open_checkpoint(
    source: str,
    *,
    registry: ModelRegistry,
    revision: str | None = None,
    report: Reporter,
    trust_remote_code: bool = False,
    host: PluginHost | None = None,
) -> Checkpoint:
    """Open a model, after downloading or dequantizing it where that is needed.

    Args:
        source: name in the registry, ``owner/name`` on the hub, a directory, or a ``.gguf`` file.
        registry: the known models.
        revision: branch, tag or commit of a hub repository.
        report: told about downloads and conversions.
        trust_remote_code: let the checkpoint's own modeling code run; from the hub it is downloaded too.
        host: plugins, whose families read GGUF files; by default they are loaded where the source is one.

    Raises:
        UserError: the source can't be found or read, or is not a complete safetensors checkpoint; one class per cause
            in ``edgellm_core.checkpoint.errors``.
    """
    checkpoint = _open(locate(source, registry=registry, revision=revision), report, trust_remote_code, host)
    for remark in checkpoint.remarks:
        report.note(remark)
    return checkpoint


def _open(location: Location, report: Reporter, trust_remote_code: bool, host: PluginHost | None) -> Checkpoint:
    if location.path is None:
        from edgellm_core.checkpoint.hub import download

        directory, commit = download(location, report, code=trust_remote_code)
        return open_directory(directory, location, revision=commit, trust_remote_code=trust_remote_code)
    if location.kind == "directory":
        return open_directory(location.path, location, trust_remote_code=trust_remote_code)
    from edgellm_core.checkpoint.gguf.conversion import converted_checkpoint, model_digest
    from edgellm_core.checkpoint.gguf.parts import read_gguf
    from edgellm_core.host import PluginHost

    header = read_gguf(location.path)
    digest = model_digest(header)
    directory = converted_checkpoint(header, digest, host or PluginHost.load(), report)
    return open_directory(directory, location, revision=location.revision, digest=digest)


def open_directory(
    directory: Path,
    location: Location,
    *,
    revision: str | None = None,
    digest: str | None = None,
    trust_remote_code: bool = False,
) -> Checkpoint:
    """Open a directory of safetensors.

    Args:
        directory: where the files lie.
        location: what the user asked for.
        revision: commit or version, for the record.
        digest: digest for the record; None computes it from the files.
        trust_remote_code: let the checkpoint's own modeling code run.
    """
    config = read_config(directory)
    files = read_weight_files(directory)
    headers = files.headers
    record = SourceRecord(
        kind=location.kind,
        id=location.id,
        revision=revision,
        digest=digest or directory_digest(directory, headers),
    )
    return Checkpoint(
        directory=directory,
        source=record,
        config=config,
        tensors=index_tensors(headers),
        headers=headers,
        duplicates=files.duplicates,
        remarks=files.remarks,
        trust_remote_code=trust_remote_code,
    )


def directory_digest(directory: Path, headers: Sequence[SafetensorsHeader]) -> str:
    """Return the digest of a directory as ``SourceRecord.digest`` describes it."""
    digest = hashlib.sha256()
    _add(digest, (directory / "config.json").read_bytes())
    for header in headers:
        _add(digest, header.file.name.encode(), str(header.file_bytes).encode(), header.raw)
    return digest.hexdigest()


def _add(digest: Any, *parts: bytes) -> None:
    """Add parts with their lengths, so that no two lists of parts give the same bytes."""
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
