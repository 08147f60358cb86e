"""``bundle.json``: what a bundle is, how it was made and how it was proved. Its keys are the public format.

Unknown keys are refused on reading, so that a change of the format needs a new ``SCHEMA_VERSION``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    field_validator,
)

from edgellm_core.bundle.errors import (
    InvalidManifestError,
    NotABundleError,
    OutputNotWritableError,
    UnknownSchemaError,
)

MANIFEST_NAME: Final = "bundle.json"
SCHEMA_VERSION: Final = 1

Range = tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt]
"""Smallest, most likely and largest size of a dimension."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    """Base of all parts: immutable, exactly the declared keys, no NaN or infinity (JSON has none)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SourceRecord(Record):
    """Where the model came from.

    Attributes:
        kind: for example ``hub``, ``directory`` or ``gguf``.
        id: name on the hub, or path.
        revision: commit on the hub; None elsewhere.
        digest: identifies the exact checkpoint.
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
    """

    name: str
    plugin: str
    version: str


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


class TokenizerRecord(Record):
    """The tokenizer and chat templates of the bundle, and how they were compared with those of the source.

    Attributes:
        status: ``equal``; ``written``, where they are equal after transformers wrote them anew; ``skipped`` where the
            comparison was switched off; or ``none`` where the source has no tokenizer.
        reference: the class of transformers that they were compared with; None where they were not.
        texts: texts that were encoded and decoded by both.
        chats: conversations that were rendered by both; 0 where there is no chat template.
        written: why transformers wrote them anew: the first difference; None where the files are the source's own.
        beyond_embedding: tokens whose ids the embedding has no row for; a prompt with one is refused.
    """

    status: Literal["equal", "written", "skipped", "none"]
    reference: str | None = None
    texts: NonNegativeInt = 0
    chats: NonNegativeInt = 0
    written: str | None = None
    beyond_embedding: NonNegativeInt = 0


class ThresholdRecord(Record):
    """A length at which the model's behaviour changes.

    Attributes:
        name: key of config.json.
        value: the length.
        run_as: the length that stood for it in the twin, where long ones are short.
        lengths: tokens of the prompts that were read whole, on both sides of ``run_as``.
    """

    name: str
    value: NonNegativeInt
    run_as: NonNegativeInt
    lengths: tuple[NonNegativeInt, ...]


class TwinRecord(Record):
    """How long sequences were proved: on the model's twin, the same config with small sizes and random weights.

    Attributes:
        thresholds: every length where behaviour changes.
        longest: most tokens that were read; 0 where no twin could be made.
        max_rel_err: largest relative error of the logits.
        reason: why no twin could be made; None where one was.
    """

    thresholds: tuple[ThresholdRecord, ...]
    longest: NonNegativeInt
    max_rel_err: NonNegativeFloat | None = None
    reason: str | None = None


class VerificationRecord(Record):
    """How the graph was compared with the checkpoint that it was made from: with the quantized one, where it is.

    A graph that passed computes what that checkpoint says. How close a quantized checkpoint is to its original is
    another question: see :class:`QualityRecord`.

    Attributes:
        status: ``passed``, or ``skipped`` where it was switched off; what failed is not published.
        reference: what it was compared with, in words.
        prompts: number of prompts.
        max_rel_err: largest relative error of the logits.
        top1_agreement: share of positions with the same most likely token, 0 to 1.
        kl: mean Kullback-Leibler divergence of the next-token distributions, in nats.
        greedy_tokens_equal: True where greedy decoding gave the same tokens.
        tolerance: largest ``max_rel_err`` that passes.
        twin: how long sequences were proved.
    """

    status: Literal["passed", "skipped"]
    reference: str | None = None
    prompts: NonNegativeInt = 0
    max_rel_err: NonNegativeFloat | None = None
    top1_agreement: Annotated[float, Field(ge=0, le=1)] | None = None
    kl: float | None = None
    greedy_tokens_equal: bool | None = None
    tolerance: NonNegativeFloat | None = None
    twin: TwinRecord | None = None


class QualityRecord(Record):
    """How close the bundle is to the unquantized original, measured on text that it was not calibrated on.

    Far is what a build warns of: ``kl`` above 0.1, or ``top1_agreement`` below 0.85.

    Attributes:
        reference: what it was compared with, in words.
        text: where the text comes from, in words.
        tokens: positions at which the next token was predicted.
        perplexity: of the graph, ``exp`` of the mean negative log-likelihood.
        original_perplexity: of the original.
        kl: mean Kullback-Leibler divergence of the next-token distributions from the original's, in nats.
        top1_agreement: share of positions with the same most likely token, 0 to 1.
        max_kl: largest ``kl`` that the build was allowed; None for any.
    """

    reference: str
    text: str
    tokens: NonNegativeInt
    perplexity: NonNegativeFloat
    original_perplexity: NonNegativeFloat
    kl: NonNegativeFloat
    top1_agreement: Annotated[float, Field(ge=0, le=1)]
    max_kl: NonNegativeFloat | None = None


class RuntimeRecord(Record):
    """What a runtime has to do beside running the graph, to answer as transformers' ``generate`` does.

    ``edgellm run`` does all of it but ``not_applied``.

    Attributes:
        reread_at: number of tokens of the whole text, with the one that was just chosen, at which the states are
            dropped and all tokens are read again, in one step; None for never. Models of the LongRoPE kind need it:
            from there on other RoPE frequencies hold, and the cached keys have the old ones.
        stop_tokens: tokens that end an answer.
        settings: settings of generation_config.json that change which token is chosen without sampling, by
            transformers' names, for example ``repetition_penalty`` or ``suppress_tokens``.
        not_applied: such settings that ``edgellm run`` does not apply, for example ``num_beams``.
    """

    reread_at: PositiveInt | None
    stop_tokens: tuple[NonNegativeInt, ...]
    settings: dict[str, Any]
    not_applied: dict[str, Any]


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


class AnswersRecord(Record):
    """How answers of ``edgellm run`` were compared with those of transformers' ``generate``, token by token.

    Attributes:
        reference: what was run, in words.
        prompts: number of prompts.
        tokens: tokens that were compared, up to 48 of each answer.
        max_rel_err: largest relative error of the logits that they were chosen from.
        ties: tokens that fell otherwise between logits that are equal within the tolerance.
    """

    reference: str
    prompts: NonNegativeInt
    tokens: NonNegativeInt
    max_rel_err: NonNegativeFloat
    ties: NonNegativeInt


class SampleRecord(Record):
    """One greedy answer of the bundle beside that of the unquantized original.

    Attributes:
        question: what was asked.
        chat: whether it was put into the chat template.
        bundle: answer of the bundle; None where there is none.
        original: answer of the source in float32; None where there is none.
        no_bundle: why the bundle was not asked.
        no_original: why the original was not asked.
    """

    question: str
    chat: bool
    bundle: str | None = None
    original: str | None = None
    no_bundle: str | None = None
    no_original: str | None = None


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
        precision: for example ``fp16``, or the quantization scheme; of a checkpoint that came quantized, the kind of
            its weights, ``mixed`` for several.
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
    precision: str
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
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = f"{MANIFEST_NAME} can't be read: {error.strerror or error}"
        if not directory.is_dir():
            reason = "there is no such directory"
        elif not path.exists():
            reason = f"it has no {MANIFEST_NAME}"
        raise NotABundleError(directory, reason) from error
    except UnicodeDecodeError as error:
        raise InvalidManifestError(path, "", "it is not UTF-8 text") from error
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise InvalidManifestError(path, "", f"it is not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise InvalidManifestError(path, "", "it is not a JSON object")
    return fields
