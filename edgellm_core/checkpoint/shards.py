"""Finds the safetensors files of a model directory and indexes their tensors.

The files are the truth, as for transformers, which loads every tensor of every file that the index names
(5.23, ``PreTrainedModel._load_pretrained_model``). Where index and files disagree without a consequence it is said.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.checkpoint.adapters import ADAPTER_CONFIG
from edgellm_core.checkpoint.errors import (
    AdapterError,
    DifferingCopiesError,
    MissingShardError,
    NoWeightsError,
    PickleCheckpointError,
    ShardIndexError,
)
from edgellm_core.checkpoint.safetensors_header import SafetensorsHeader, read_header
from edgellm_core.untrusted import read_json_object
from edgellm_core.untrusted.errors import UnreadableFileError
from edgellm_core.untrusted.limits import INDEX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from edgellm_core.checkpoint.tensors import TensorEntry, TensorIndex

SINGLE_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"
"""Names that transformers looks for, in this order (``transformers.utils.SAFE_WEIGHTS_NAME``, ``…_INDEX_NAME``)."""

NUMBERED: Final = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.safetensors")
"""Name of one of several files, as ``huggingface_hub`` writes them (``split_torch_state_dict_into_shards``)."""

PICKLE_SUFFIXES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Endings of PyTorch pickle files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFiles:
    """The safetensors files of a checkpoint.

    Attributes:
        headers: their headers, by file name.
        duplicates: tensors that several files hold: the entry that ``index_tensors`` takes, and another one. Types and
            shapes are equal; whether their bytes are only reading shows.
        remarks: sentences about disagreements without a consequence.
    """

    headers: tuple[SafetensorsHeader, ...]
    duplicates: tuple[tuple[TensorEntry, TensorEntry], ...] = ()
    remarks: tuple[str, ...] = ()


def read_weight_files(directory: Path) -> WeightFiles:
    """Read the headers of all safetensors files that make up the checkpoint in ``directory``.

    Raises:
        PickleCheckpointError: there are pickle files only.
        AdapterError: it holds an adapter.
        NoWeightsError: there are no weights under the names that transformers reads, nor a numbered set of files.
        MissingShardError: the index, or the numbers in the names, speak of files that are not there.
        ShardIndexError: the index can't be understood.
        DifferingCopiesError: files hold a tensor of the same name in different types or shapes.
        TruncatedFileError: a file is shorter than its header says.
        CorruptSafetensorsError: a file breaks the format.
    """
    try:
        names = set(os.listdir(directory))  # noqa: PTH208 - names, and no stat per file
    except OSError as error:
        raise UnreadableFileError(directory, error) from error
    check_weight_files(str(directory), names)
    if SINGLE_FILE in names:
        return WeightFiles(headers=(read_header(directory / SINGLE_FILE),))
    weight_map: Mapping[str, str] = {}
    if INDEX_FILE in names:
        index = directory / INDEX_FILE
        weight_map = parse_weight_map(index, read_json_object(index, INDEX))
        check_shards(index, weight_map.values(), names)
        shards = sorted(set(weight_map.values()))
        remarks: list[str] = []
    else:
        shards = numbered_files(names)
        check_shards(directory / shards[0], all_numbers(shards[0]), names)
        remarks = [f"There is no {INDEX_FILE}; the {len(shards)} numbered files are read as one checkpoint."]
    headers = tuple(read_header(directory / shard) for shard in shards)
    remarks += _misplaced(weight_map, headers)
    return WeightFiles(headers=headers, duplicates=_duplicates(headers), remarks=tuple(remarks))


def read_headers(directory: Path) -> tuple[SafetensorsHeader, ...]:
    """Read the headers of all safetensors files that make up the checkpoint in ``directory``, by file name.

    Raises:
        UserError: as ``read_weight_files``.
    """
    return read_weight_files(directory).headers


def index_tensors(headers: Sequence[SafetensorsHeader]) -> TensorIndex:
    """Return the tensors of all files by name; of several of one name the last one, as transformers."""
    entries: dict[str, TensorEntry] = {}
    for header in headers:
        entries.update(header.tensors)
    return entries


def check_weight_files(source: str, names: set[str]) -> None:
    """Refuse a directory or repository whose file names show no safetensors weights.

    Raises:
        PickleCheckpointError: there are pickle files only.
        NoWeightsError: there are no weights under the names that transformers reads, nor a numbered set of files.
    """
    if SINGLE_FILE in names or INDEX_FILE in names or numbered_files(names):
        return
    if ADAPTER_CONFIG in names:
        raise AdapterError(source)
    others = sorted(name for name in names if name.endswith(".safetensors") and not name.startswith("adapter_"))
    pickles = sorted(name for name in names if name.endswith(PICKLE_SUFFIXES) and name != "training_args.bin")
    if pickles and not others:
        raise PickleCheckpointError(source, pickles)
    raise NoWeightsError(source, others)


def numbered_files(names: Iterable[str]) -> list[str]:
    """Return the files of the one numbered set among file names, sorted; nothing where there is none, or several."""
    sets: dict[tuple[str, str], list[str]] = {}
    for name in sorted(names):
        found = NUMBERED.fullmatch(name)
        if found:
            sets.setdefault((found["stem"], found["count"]), []).append(name)
    return next(iter(sets.values())) if len(sets) == 1 else []


def all_numbers(name: str) -> list[str]:
    """Return the names of all files of the numbered set that a file belongs to."""
    found = NUMBERED.fullmatch(name)
    assert found is not None  # for mypy: the caller has it from numbered_files
    stem, count = found["stem"], found["count"]
    return [f"{stem}-{number:05}-of-{count}.safetensors" for number in range(1, int(count) + 1)]


def parse_weight_map(index: Path, fields: dict[str, Any]) -> dict[str, str]:
    """Return tensor name → file name of an index of shards.

    Raises:
        ShardIndexError: ``weight_map`` is missing, or names a file outside of the directory.
    """
    weight_map = fields.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ShardIndexError(index, "it has no weight_map")
    for tensor, shard in weight_map.items():
        # A path out of the directory would let a downloaded index name any file of this machine.
        if not isinstance(shard, str) or not shard.endswith(".safetensors") or Path(shard).name != shard:
            raise ShardIndexError(index, f"tensor {tensor!r} is said to lie in {shard!r}, not a file beside it")
    return weight_map


def check_shards(index: Path, wanted: Iterable[str], names: set[str]) -> None:
    """Refuse an index, or a numbered file, that speaks of files which are not among ``names``.

    Raises:
        MissingShardError: with the missing files.
    """
    shards = sorted(set(wanted))
    missing = [shard for shard in shards if shard not in names]
    if missing:
        raise MissingShardError(index, missing, len(shards))


def _misplaced(weight_map: Mapping[str, str], headers: Sequence[SafetensorsHeader]) -> list[str]:
    """Return sentences about tensors that are not where the index says."""
    places: dict[str, set[str]] = {}
    for header in headers:
        for name in header.tensors:
            places.setdefault(name, set()).add(header.file.name)
    elsewhere = [name for name, shard in weight_map.items() if name in places and shard not in places[name]]
    nowhere = [name for name in weight_map if name not in places]
    return [
        f"{INDEX_FILE} {claim} {len(tensors)} tensor(s), for example {tensors[0]!r}; the files themselves decide."
        for claim, tensors in (("names the wrong file for", elsewhere), ("lists, but no file holds,", nowhere))
        if tensors
    ]


def _duplicates(headers: Sequence[SafetensorsHeader]) -> tuple[tuple[TensorEntry, TensorEntry], ...]:
    """Return the tensors that several files hold, after comparing what the headers say of them."""
    taken = index_tensors(headers)
    pairs = [
        (taken[name], entry)
        for header in headers
        for name, entry in header.tensors.items()
        if entry.file != taken[name].file
    ]
    for first, second in pairs:
        if (first.element_type, first.shape) != (second.element_type, second.shape):
            raise DifferingCopiesError(first.name, second.file, first.file)
    return tuple(pairs)
