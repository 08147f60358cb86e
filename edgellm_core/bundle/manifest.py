"""``bundle.json``: what a bundle is, how it was made and how it was proved. Its keys are the public format.

Unknown keys are refused on reading, so that a change of the format needs a new ``SCHEMA_VERSION``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    ValidationError,
    field_validator,
)

from edgellm_core.bundle.errors import (
    InvalidManifestError,
    NotABundleError,
    OutputNotWritableError,
    UnknownSchemaError,
)
from edgellm_core.bundle.proof import (
    AnswersRecord,
    ArithmeticRecord,
    QualityRecord,
    Record,
    RuntimeRecord,
    SampleRecord,
    ThresholdRecord,
    TokenizerRecord,
    TwinRecord,
    VerificationRecord,
)
from edgellm_core.untrusted import (
    CorruptJsonError,
    FileLimitError,
    NotAFileError,
    UnreadableFileError,
    read_json_object,
)
from edgellm_core.untrusted.limits import OWN_FILE

__all__ = [
    "MANIFEST_NAME",
    "SCHEMA_VERSION",
    "AnswersRecord",
    "ArithmeticRecord",
    "EngineRecord",
    "FamilyRecord",
    "FileRecord",
    "LeftOutRecord",
    "Manifest",
    "ProfileRecord",
    "QualityRecord",
    "QuantizationRecord",
    "Record",
    "RuntimeRecord",
    "SampleRecord",
    "SourceRecord",
    "StageRecord",
    "SurgeryRecord",
    "ThresholdRecord",
    "TokenizerRecord",
    "TwinRecord",
    "VerificationRecord",
    "read_fields",
    "read_manifest",
    "write_manifest",
]

MANIFEST_NAME: Final = "bundle.json"
SCHEMA_VERSION: Final = 1

Range = tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt]
"""Smallest, most likely and largest size of a dimension."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class SourceRecord(Record):
    """Where the model came from.

    Attributes:
        kind: for example ``hub``, ``directory`` or ``gguf``.
        id: name on the hub, or path.
        revision: commit on the hub; None elsewhere.
        digest: identifies the exact checkpoint: sha256 over config.json and every byte of its weight files.
    """

    kind: str
    id: str
    revision: str | None
    digest: str


class FamilyRecord(Record):
    """Which plugin handled the model.

    Attributes:
        name: family.
        plugin: plugin that registered it.
        version: version of that plugin.
        package: pip package that it came from; empty where it came from none.
    """

    name: str
    plugin: str
    version: str
    package: str = ""


class TargetPluginRecord(Record):
    """Which plugin brought the target.

    Attributes:
        plugin: its name.
        version: its version.
        package: pip package that it came from; empty where it came from none.
    """

    plugin: str
    version: str
    package: str


class StageRecord(Record):
    """What one stage took.

    Attributes:
        name: stage.
        seconds: wall-clock time.
        peak_rss_mib: highest resident set size of the process during the stage, in MiB.
        cached: True where an earlier result was used.
    """

    name: str
    seconds: NonNegativeFloat
    peak_rss_mib: NonNegativeFloat
    cached: bool


class LeftOutRecord(Record):
    """Tensors of the checkpoint that are not in the graph, for one reason.

    Attributes:
        pattern: what their names have in common; ``*`` stands for any number, at the end for anything.
        tensors: how many they are.
        bytes: bytes that they take in the checkpoint.
        why: the reason.
    """

    pattern: str
    tensors: NonNegativeInt
    bytes: NonNegativeInt
    why: str


class SurgeryRecord(Record):
    """What one surgery rule did.

    Attributes:
        rule: name of the rule.
        expected: matches that the model predicts, or the smallest and the largest number (None: no upper limit).
        applied: matches that were rewritten.
    """

    rule: str
    expected: NonNegativeInt | tuple[NonNegativeInt, NonNegativeInt | None]
    applied: NonNegativeInt


class QuantizationRecord(Record):
    """What of the graph is quantized.

    Attributes:
        linears: number of linear layers by kind of weight: ``fp8``, ``int8``, ``int4``, ``uint4``, ``nvfp4`` or
            ``mxfp8``.
        kv_cache: type of the keys and values that the graph takes and returns; None for that of the graph.
        compute_precision: type of everything else, for example ``fp16``.
        producer: what quantized the checkpoint, with its version.
    """

    linears: dict[str, NonNegativeInt]
    kv_cache: str | None
    compute_precision: str
    producer: str


class ProfileRecord(Record):
    """An optimization profile of an engine.

    Attributes:
        name: for example ``prefill``.
        batch: sequences at once.
        seq: new tokens of each sequence.
        past: cached tokens of each sequence.
    """

    name: str
    batch: Range
    seq: Range
    past: Range


class EngineRecord(Record):
    """The TensorRT engine of the bundle.

    Attributes:
        backend: package that built it, ``tensorrt`` or ``tensorrt-rtx``.
        version: version of that package.
        compute_capability: ``10 * major + minor`` of the GPUs that it runs on; None where the backend does not tie it.
        profiles: optimization profiles in the order of their indices.
        bytes: size of the engine file.
    """

    backend: str
    version: str
    compute_capability: NonNegativeInt | None
    profiles: tuple[ProfileRecord, ...]
    bytes: NonNegativeInt


class FileRecord(Record):
    """One file of the bundle.

    Attributes:
        path: relative to the bundle, with ``/``.
        bytes: size.
        sha256: digest in hexadecimal digits.
    """

    path: str
    bytes: NonNegativeInt
    sha256: Sha256

    @field_validator("path")
    @classmethod
    def _stay_inside(cls, path: str) -> str:
        pure = PurePosixPath(path)
        if not pure.parts or pure.is_absolute() or ".." in pure.parts or "\\" in path:
            msg = "must be a relative path inside the bundle"
            raise ValueError(msg)
        return path


class Manifest(Record):
    """The whole of ``bundle.json``.

    Attributes:
        schema_version: version of this format.
        source: where the model came from.
        family: which plugin handled it.
        target: form of graph and files, for example ``onnx``.
        target_plugin: which plugin brought it; None for a target of the core.
        precision: for example ``fp16``, or the quantization scheme; of a checkpoint that came quantized, the kind of
            its weights, ``mixed`` for several.
        attention_scores: type of attention scores: ``fp32``, or ``auto`` for that of the graph.
        quantization: what is quantized; None where nothing is.
        left_out: what of the checkpoint is not in the graph, such as a vision tower.
        versions: package → version that took part in the build.
        stages: what each stage took.
        tokenizer: how tokenizer and chat templates were compared; None in bundles of older versions.
        verification: how the bundle was proved.
        quality: what the precision costs; None where it was not measured.
        runtime: what a runtime has to do beside running the graph; None in bundles of earlier versions.
        answers: how what ``runtime`` says was proved; empty where it was not.
        sample: an answer of the bundle beside one of the original; None without verification.
        surgery: what each rule did.
        engine: the engine, if there is one.
        files: every file of the bundle but ``bundle.json``.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    source: SourceRecord
    family: FamilyRecord
    target: str
    target_plugin: TargetPluginRecord | None = None
    precision: str
    attention_scores: str = "auto"
    quantization: QuantizationRecord | None = None
    left_out: tuple[LeftOutRecord, ...] = ()
    versions: dict[str, str]
    stages: tuple[StageRecord, ...]
    tokenizer: TokenizerRecord | None = None
    verification: VerificationRecord
    quality: QualityRecord | None = None
    runtime: RuntimeRecord | None = None
    answers: tuple[AnswersRecord, ...] = ()
    sample: SampleRecord | None = None
    surgery: tuple[SurgeryRecord, ...]
    engine: EngineRecord | None = None
    files: tuple[FileRecord, ...]

    @property
    def compute_precision(self) -> str:
        """Precision of everything that is not quantized."""
        return self.quantization.compute_precision if self.quantization else self.precision


def write_manifest(directory: Path, manifest: Manifest) -> Path:
    """Write ``bundle.json`` so that it is whole or absent; return its path.

    Raises:
        OutputNotWritableError: the directory can't be written.
    """
    path = directory / MANIFEST_NAME
    partial = path.with_suffix(".json.partial")
    try:
        with partial.open("w", encoding="utf-8") as stream:
            stream.write(manifest.model_dump_json(indent=2) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        raise OutputNotWritableError(directory, error) from error
    return path


def read_manifest(directory: Path) -> Manifest:
    """Read and validate ``bundle.json``.

    Raises:
        NotABundleError: there is none.
        UnknownSchemaError: it was written in another schema.
        InvalidManifestError: its contents are not what this schema says.
    """
    path = directory / MANIFEST_NAME
    fields = read_fields(directory)
    version = fields.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UnknownSchemaError(path, version, SCHEMA_VERSION)
    try:
        # From text, because strict mode takes lists for tuples only there.
        return Manifest.model_validate_json(json.dumps(fields), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidManifestError(path, where, first["msg"]) from error


def read_fields(directory: Path) -> dict[str, Any]:
    """Return the top-level keys of ``bundle.json`` without validating their values.

    Raises:
        NotABundleError: there is no such file.
        InvalidManifestError: it is not a JSON object.
    """
    path = directory / MANIFEST_NAME
    try:
        return read_json_object(path, OWN_FILE)
    except (CorruptJsonError, FileLimitError, NotAFileError) as error:
        raise InvalidManifestError(path, "", error.problem) from error
    except UnreadableFileError as error:
        reason = f"{MANIFEST_NAME} can't be read: {error.problem}"
        if not directory.is_dir():
            reason = "there is no such directory"
        elif not path.exists():
            reason = f"it has no {MANIFEST_NAME}"
        raise NotABundleError(directory, reason) from error
