"""Says what a model is and what a build would take, before anything is downloaded, read or converted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.checkpoint.dimensions import Dimensions, read_dimensions
from edgellm_core.checkpoint.errors import (
    GgufAccountError,
    GgufArchitectureError,
    HubError,
    PickleCheckpointError,
)
from edgellm_core.checkpoint.estimate import StageEstimate, estimate_stages, stage
from edgellm_core.checkpoint.json_files import read_config
from edgellm_core.checkpoint.known_models import causal_model_types
from edgellm_core.checkpoint.location import Location, SourceKind, locate
from edgellm_core.checkpoint.machine import available_memory, free_disk
from edgellm_core.checkpoint.shards import index_tensors, read_headers
from edgellm_core.checkpoint.tokenizer_files import require_vocabulary
from edgellm_core.errors import UserError
from edgellm_core.settings import cache_directory

if TYPE_CHECKING:
    from edgellm_core.checkpoint.hub import Repository
    from edgellm_core.host import PluginHost
    from edgellm_core.registry import ModelRegistry

CAUSAL_SUFFIXES: Final = ("ForCausalLM", "LMHeadModel")
"""Ends of the class names that transformers gives decoder-only causal language models."""


QUANTIZATION_METHODS: Final = ("modelopt", "awq", "gptq", "compressed-tensors")
"""Values of ``quant_method`` in config.json of quantized checkpoints that can be built."""

NUMBERS_IN_ONE: Final = {(".weight", "U8"): 2, (".qweight", "I32"): 8, (".weight_packed", "I32"): 8}
"""End of the name and element type of packed weights → weights in one element (ModelOpt; AutoAWQ and GPTQ;
compressed-tensors)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """One tensor of a source that may not be on this machine.

    Attributes:
        name: as the source spells it.
        element_type: as the source spells it, for example ``BF16`` or ``Q4_1``.
        shape: dimensions.
        nbytes: bytes of its data in the source.
    """

    name: str
    element_type: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Metadata:
    """What is known about a source from its metadata alone.

    Attributes:
        location: where it is; for a hub repository with the commit as revision.
        config: contents of config.json, or what a GGUF header gives of it.
        tensors: all tensors; None where there are no readable weights.
        directory: its directory on this machine, if it has one.
        download: bytes to download; None where nothing is.
        pickles: the sentence about pickle files; None where there are safetensors.
        problems: sentences about what can't be read.
    """

    location: Location
    config: Mapping[str, Any]
    tensors: Sequence[TensorSpec] | None
    directory: Path | None = None
    download: int | None = None
    pickles: str | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The verdict of preflight.

    Attributes:
        kind: kind of the source.
        id: hub repository, package, or path.
        revision: commit or version.
        dimensions: sizes of the model.
        parameters: elements of all tensors; None without weights.
        bytes: bytes of all tensors in the source; None without weights.
        element_types: elements by type, the most frequent first.
        precision: precision that the estimates are for.
        stages: memory and disk of each stage; empty without weights.
        ram_available: bytes of memory that this machine has left.
        disk_available: free bytes where the output would be written.
        will_not_work: sentences about what a build would fail on; empty when nothing is known.
    """

    kind: SourceKind
    id: str
    revision: str | None
    dimensions: Dimensions
    parameters: int | None
    bytes: int | None
    element_types: Mapping[str, int]
    precision: str
    stages: tuple[StageEstimate, ...]
    ram_available: int
    disk_available: int
    will_not_work: tuple[str, ...]


def read_metadata(
    source: str, *, registry: ModelRegistry, revision: str | None = None, host: PluginHost | None = None
) -> Metadata:
    """Read the metadata of a source: config and headers, over the network only for a hub repository.

    Args:
        source: name in the registry, ``owner/name`` on the hub, a directory, or a ``.gguf`` file.
        registry: the known models.
        revision: branch, tag or commit of a hub repository.
        host: plugins, whose families read GGUF files; by default they are loaded where the source is one.

    Raises:
        UserError: the source can't be found or read, or is damaged. Pickle weights are no error here.
    """
    location = locate(source, registry=registry, revision=revision)
    if location.path is None:
        return _hub_metadata(location)
    if location.kind == "directory":
        return _directory_metadata(location, location.path)
    return _gguf_metadata(location, location.path, host)


def summarize(
    metadata: Metadata, *, precision: str = "fp16", claimed: bool = False, output: Path | None = None
) -> Summary:
    """Work out sizes, estimates and what will not work.

    Args:
        metadata: from ``read_metadata``.
        precision: precision of the build.
        claimed: whether a plugin claims the model; its architecture then is not judged by its name.
        output: where the bundle would be written; the current directory by default.
    """
    tensors = metadata.tensors
    shapes = [tensor.shape for tensor in tensors or ()]
    dimensions = read_dimensions(metadata.config, shapes)
    parameters = sum(map(_elements, tensors)) if tensors is not None else None
    is_gguf = metadata.location.kind in {"gguf", "package"}
    stages: tuple[StageEstimate, ...] = ()
    if parameters is not None:
        stages = estimate_stages(
            parameters,
            dimensions,
            precision=precision,
            download=metadata.download,
            dequantize=sum(map(_converted_bytes, tensors or ())) if is_gguf else None,
            packed=sum(t.nbytes for t in tensors or ()) if metadata.config.get("quantization_config") else None,
        )
    ram, disk = available_memory(), free_disk(output or Path())
    problems = [
        *([metadata.pickles] if metadata.pickles else []),
        *metadata.problems,
        *_config_problems(metadata.config, claimed=claimed),
        *_tokenizer_problems(metadata.directory),
        *_memory_problems(stages, ram),
        *_disk_problems(stages, disk),
    ]
    return Summary(
        kind=metadata.location.kind,
        id=metadata.location.id,
        revision=metadata.location.revision,
        dimensions=dimensions,
        parameters=parameters,
        bytes=sum(tensor.nbytes for tensor in tensors) if tensors is not None else None,
        element_types=_count_types(tensors or ()),
        precision=precision,
        stages=stages,
        ram_available=ram,
        disk_available=disk,
        will_not_work=tuple(problems),
    )


def _gguf_metadata(location: Location, file: Path, host: PluginHost | None) -> Metadata:
    """Read the header of a GGUF file, or of all parts."""
    from edgellm_core.checkpoint.gguf.config import read_gguf_config
    from edgellm_core.checkpoint.gguf.forms import find_form
    from edgellm_core.checkpoint.gguf.metadata import architecture
    from edgellm_core.checkpoint.gguf.parts import read_gguf
    from edgellm_core.checkpoint.gguf.plan import plan_tensors
    from edgellm_core.host import PluginHost

    header = read_gguf(file)
    tensors = [
        TensorSpec(name=t.name, element_type=t.element_type, shape=t.shape, nbytes=t.nbytes) for t in header.tensors
    ]
    try:
        family, form = find_form(host or PluginHost.load(), header)
    except GgufArchitectureError as error:
        config: dict[str, Any] = {"model_type": architecture(header)}
        return Metadata(location=location, config=config, tensors=tensors, problems=(str(error),))
    reading = read_gguf_config(header, family, form)
    findings = [*reading.findings, *plan_tensors(header, reading.config, form).findings]
    problems = tuple(str(GgufAccountError(file, architecture(header), finding)) for finding in findings)
    return Metadata(location=location, config=reading.config, tensors=tensors, problems=problems)


def _directory_metadata(location: Location, directory: Path) -> Metadata:
    """Read a local directory."""
    config = read_config(directory)
    try:
        headers = read_headers(directory)
    except PickleCheckpointError as error:
        return Metadata(location=location, config=config, tensors=None, directory=directory, pickles=str(error))
    tensors = [
        TensorSpec(name=name, element_type=entry.element_type, shape=entry.shape, nbytes=entry.nbytes)
        for name, entry in index_tensors(headers).items()
    ]
    return Metadata(location=location, config=config, tensors=tensors, directory=directory)


def _hub_metadata(location: Location) -> Metadata:
    """Read a hub repository: file list, config.json and the headers of the safetensors files; no weights."""
    from edgellm_core.checkpoint import hub

    try:
        repository = hub.list_repository(location)
    except HubError:
        directory = hub.cached_snapshot(location)
        if directory is None:
            raise
        return _directory_metadata(_pinned(location, directory.name), directory)
    pinned = _pinned(location, repository.commit)
    config = hub.fetch_config(repository)
    try:
        weights = hub.weight_files(repository)
    except PickleCheckpointError as error:
        return Metadata(location=pinned, config=config, tensors=None, pickles=str(error))
    return Metadata(
        location=pinned,
        config=config,
        tensors=_hub_tensors(repository, weights),
        download=hub.missing_bytes(repository, [*repository.sidecars(), *weights]),
    )


def _hub_tensors(repository: Repository, files: Sequence[str]) -> list[TensorSpec]:
    """Read the headers of a repository's safetensors files by range requests."""
    from edgellm_core.checkpoint.hub import fetch_tensor_metadata

    return [
        TensorSpec(
            name=name,
            element_type=tensor.dtype,
            shape=tuple(tensor.shape),
            nbytes=tensor.data_offsets[1] - tensor.data_offsets[0],
        )
        for name, tensor in fetch_tensor_metadata(repository, files)
    ]


def _pinned(location: Location, commit: str) -> Location:
    """Return the location with the commit that its revision stands for."""
    return Location(kind=location.kind, id=location.id, revision=commit, hint=location.hint)


def _elements(tensor: TensorSpec) -> int:
    """Return the number of weights that a tensor holds."""
    for (ending, element_type), count in NUMBERS_IN_ONE.items():
        if tensor.name.endswith(ending) and tensor.element_type == element_type:
            return math.prod(tensor.shape) * count
    return math.prod(tensor.shape)


def _converted_bytes(tensor: TensorSpec) -> int:
    """Return the bytes of a tensor of a GGUF file in the converted checkpoint, unless it leaves float16's range."""
    return (4 if tensor.element_type == "F32" else 2) * math.prod(tensor.shape)


def _count_types(tensors: Iterable[TensorSpec]) -> dict[str, int]:
    """Return the number of elements by element type, the most frequent first."""
    counts: Counter[str] = Counter()
    for tensor in tensors:
        counts[tensor.element_type] += math.prod(tensor.shape)
    return dict(counts.most_common())


def _config_problems(config: Mapping[str, Any], *, claimed: bool) -> Iterable[str]:
    """Yield what the config alone rules out."""
    if config.get("is_encoder_decoder") is True:
        yield "It is an encoder-decoder model; edgellm builds decoder-only causal language models."
    elif not claimed and (names := _other_architectures(config)):
        yield (
            f"Its architecture is {', '.join(names)}, which is not a decoder-only causal language model "
            f"(…{' or …'.join(CAUSAL_SUFFIXES)}); a plugin may claim it."
        )
    quantization = config.get("quantization_config")
    if isinstance(quantization, Mapping) and quantization:
        method = quantization.get("quant_method", "unknown method")
        if method not in QUANTIZATION_METHODS:
            yield f"Its weights are quantized in a way that is not known ({method}); use the unquantized checkpoint."


def _tokenizer_problems(directory: Path | None) -> Iterable[str]:
    """Yield what the names and beginnings of the tokenizer's files rule out."""
    try:
        if directory is not None:
            require_vocabulary(directory)
    except UserError as error:
        yield str(error)


def _other_architectures(config: Mapping[str, Any]) -> list[str]:
    """Return the architectures if there are some and none is a causal language model, nor is the model type."""
    names = config.get("architectures")
    if causal_model_types().intersection([str(config.get("model_type"))]):  # Gemma3ForConditionalGeneration is one
        return []
    if not isinstance(names, list) or any(str(name).endswith(CAUSAL_SUFFIXES) for name in names):
        return []
    return [str(name) for name in names]


def _memory_problems(stages: Sequence[StageEstimate], available: int) -> Iterable[str]:
    """Yield the stages that need more memory than there is, with the way around."""
    remedies = {
        "dequantize": "Use the model's safetensors checkpoint.",
        "verify": "Verify on a larger machine, or build with --verify off.",
        "engine": "Build the engine on a larger machine, or use --engine none.",
    }
    for item in stages:
        if item.ram > available:
            remedy = remedies.get(item.stage, "Free some memory.")
            yield f"{item.stage} needs {_gib(item.ram)} of memory; {_gib(available)} are available. {remedy}"


def _disk_problems(stages: Sequence[StageEstimate], output: int) -> Iterable[str]:
    """Yield where the disk is too small: for the output, or for the caches."""
    if not stages:
        return
    built = sum(stage(stages, name).disk for name in ("trace", "bind", "engine"))
    if built > output:
        yield f"The bundle needs {_gib(built)} of disk; {_gib(output)} are free here. Choose another -o."
    for item in stages:
        if item.stage in {"download", "dequantize"} and item.disk > (free := free_disk(_cache_of(item.stage))):
            variable = "HF_HOME" if item.stage == "download" else "EDGELLM_CACHE"
            yield f"{item.stage} needs {_gib(item.disk)} of disk; {_gib(free)} are free. Set {variable}."


def _cache_of(stage_name: str) -> Path:
    """Return the directory that a stage before the build writes into."""
    if stage_name == "dequantize":
        return cache_directory()
    from edgellm_core.checkpoint.hub import hub_cache

    return hub_cache()


def _gib(count: int) -> str:
    """Write a number of bytes in GiB."""
    return f"{count / 2**30:.1f} GiB"
