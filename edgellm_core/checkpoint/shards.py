"""Finds the safetensors files of a model directory and indexes their tensors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.checkpoint.errors import (
    MissingShardError,
    NoWeightsError,
    PickleCheckpointError,
    ShardIndexError,
    UnreadableFileError,
)
from edgellm_core.checkpoint.json_files import read_json
from edgellm_core.checkpoint.safetensors_header import SafetensorsHeader, read_header

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellm_core.checkpoint.tensors import TensorEntry, TensorIndex

SINGLE_FILE: Final = "model.safetensors"
INDEX_FILE: Final = "model.safetensors.index.json"
"""Names that transformers looks for, in this order (``transformers.utils.SAFE_WEIGHTS_NAME``, ``…_INDEX_NAME``)."""

PICKLE_SUFFIXES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Endings of PyTorch pickle files."""


def read_headers(directory: Path) -> tuple[SafetensorsHeader, ...]:
    """Read the headers of all safetensors files that make up the checkpoint in ``directory``, by file name.

    Raises:
        PickleCheckpointError: there are pickle files only.
        NoWeightsError: there are no weights under the names that transformers reads.
        MissingShardError: the index names files that are not there.
        ShardIndexError: the index and the files disagree, or two files hold a tensor of the same name.
        TruncatedFileError: a file is shorter than its header says.
        CorruptSafetensorsError: a file breaks the format.
    """
    try:
        names = set(os.listdir(directory))  # noqa: PTH208 - names, and no stat per file
    except OSError as error:
        raise UnreadableFileError(directory, error) from error
    check_weight_files(str(directory), names)
    if SINGLE_FILE in names:
        return (read_header(directory / SINGLE_FILE),)
    index = directory / INDEX_FILE
    weight_map = parse_weight_map(index, read_json(index))
    check_shards(index, weight_map, names)
    headers = tuple(read_header(directory / shard) for shard in sorted(set(weight_map.values())))
    _check_weight_map(index, weight_map, headers)
    return headers


def index_tensors(headers: Sequence[SafetensorsHeader]) -> TensorIndex:
    """Return the tensors of all files by name."""
    entries: dict[str, TensorEntry] = {}
    for header in headers:
        entries.update(header.tensors)
    return entries


def check_weight_files(source: str, names: set[str]) -> None:
    """Refuse a directory or repository whose file names show no safetensors weights.

    Raises:
        PickleCheckpointError: there are pickle files only.
        NoWeightsError: there are no weights under the names that transformers reads.
    """
    if SINGLE_FILE in names or INDEX_FILE in names:
        return
    others = sorted(name for name in names if name.endswith(".safetensors") and not name.startswith("adapter_"))
    pickles = sorted(name for name in names if name.endswith(PICKLE_SUFFIXES) and name != "training_args.bin")
    if pickles and not others:
        raise PickleCheckpointError(source, pickles)
    raise NoWeightsError(source, others)


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


def check_shards(index: Path, weight_map: dict[str, str], names: set[str]) -> None:
    """Refuse an index that names files which are not among ``names``.

    Raises:
        MissingShardError: with the missing files.
    """
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if shard not in names]
    if missing:
        raise MissingShardError(index, missing, len(shards))


def _check_weight_map(index: Path, weight_map: dict[str, str], headers: Sequence[SafetensorsHeader]) -> None:
    """Refuse a tensor that is not where the index says, or that two files hold."""
    places: dict[str, str] = {}
    for header in headers:
        for name in header.tensors:
            if name in places:
                raise ShardIndexError(index, f"tensor {name!r} lies in {places[name]} and in {header.file.name}")
            places[name] = header.file.name
    for name, shard in weight_map.items():
        if places.get(name) != shard:
            found = f"lies in {places[name]}" if name in places else "is in no shard"
            raise ShardIndexError(index, f"tensor {name!r} should lie in {shard} but {found}")
