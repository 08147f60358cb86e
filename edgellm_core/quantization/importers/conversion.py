"""Writes a checkpoint of another tool in ModelOpt's form, once, tensor by tensor, and keeps it in the cache."""

from __future__ import annotations

import json
import math
import shutil
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgellm_core.checkpoint.conversion_cache import conversion_directory, write_conversion
from edgellm_core.checkpoint.shards import INDEX_FILE, SINGLE_FILE
from edgellm_core.checkpoint.tensors import TensorEntry
from edgellm_core.checkpoint.tokenizer_files import TEMPLATE_FOLDER
from edgellm_core.quantization.importers.source import ForeignCheckpoint, NewTensor
from edgellm_core.quantization.layout import MIXED, QUANT_CONFIG
from edgellm_core.settings import ELEMENT_BYTES
from edgellm_core.untrusted import read_json_object

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from edgellm_core.checkpoint.tensors import TensorIndex
    from edgellm_core.events import Reporter
    from edgellm_core.quantization.importers.source import Imported, Importer

VERSION: Final = 2
"""Raise it when conversions write something else; older ones are then made again."""

SIDE_FILES: Final[Mapping[str, Mapping[str, str]]] = {
    "quantize_config.json": {},
    "quant_config.json": {"bits": "w_bit", "group_size": "q_group_size"},
}
"""Settings that AutoGPTQ and AutoAWQ write beside config.json → other names that keys have there."""

COMPARED_SETTINGS: Final = (
    "bits", "group_size", "sym", "desc_act", "checkpoint_format", "format", "zero_point", "version",
)  # fmt: skip

CHUNK_BYTES: Final = 16 << 20


def canonical_directory(
    directory: Path,
    config: Mapping[str, Any],
    tensors: TensorIndex,
    importer: Importer,
    *,
    key: str,
    report: Reporter,
    check: Callable[[Path], None],
) -> Path:
    """Return the directory of the converted checkpoint; convert it where that was not done before.

    Args:
        directory: the checkpoint.
        config: its config.json.
        tensors: its tensors.
        importer: reads them.
        key: changes with every file of the checkpoint.
        report: told how long it took.
        check: raises an error where the finished result is not what the source says; it is then not kept.

    Raises:
        UnsupportedQuantizationError: something of it can't be represented.
        QuantizedTensorMismatchError: a tensor is missing or malformed.
        DiskSpaceError: the result does not fit into the cache.
        CacheWriteError: the cache can't be written.
    """
    result = conversion_directory(key, VERSION)
    if result.is_dir():
        return result
    imported = read_foreign(directory, config, tensors, importer)
    new = _all_tensors(tensors, imported)
    for note in imported.notes:
        report.note(note)
    report.note(f"Converting {len(imported.layers)} layers that {imported.producer} quantized; done once.")

    def write(made: Path) -> None:
        made.mkdir()
        _copy_other_files(directory, config, made)
        _write_description(made / QUANT_CONFIG, imported)
        _write_safetensors(made / SINGLE_FILE, new, report)
        check(made)

    needed = sum(math.prod(t.shape) * ELEMENT_BYTES[t.element_type] for t in new.values())
    write_conversion(result, write, what=f"Converting '{directory}'", needed=needed)
    return result


def read_foreign(directory: Path, config: Mapping[str, Any], tensors: TensorIndex, importer: Importer) -> Imported:
    """Return what an importer finds in a checkpoint, after checking that it describes every layer once.

    Raises:
        UserError: something of it can't be represented, is missing, or contradicts itself; one class per cause.
    """
    source = ForeignCheckpoint(directory=directory, settings=config["quantization_config"], tensors=tensors)
    imported = importer(source)
    _require_one_description(source, imported)
    return imported


def _require_one_description(source: ForeignCheckpoint, imported: Imported) -> None:
    """Refuse a checkpoint that describes or holds a layer twice, or not at all.

    Raises:
        ContradictoryQuantizationError: naming what there is.
    """
    method = source.settings["quant_method"]
    if not imported.layers and not imported.others:
        source.contradict(f"quant_method is {method!r}, and no layer holds a packed weight")
    if (source.directory / QUANT_CONFIG).is_file():
        source.contradict(f"quant_method is {method!r}, and there is ModelOpt's {QUANT_CONFIG} too")
    _require_equal_side_file(source)
    for module, parts in imported.layers.items():
        for name in (f"{module}.{suffix}" for suffix in parts):
            if name in source.tensors and name not in imported.replaced:
                source.contradict(f"{module!r} holds a packed weight, and {name!r} too")


def _require_equal_side_file(source: ForeignCheckpoint) -> None:
    """Refuse settings that the tool's own file beside config.json gives otherwise; it reads that one first."""
    for name, synonyms in SIDE_FILES.items():
        path = source.directory / name
        beside = read_json_object(path) if path.is_file() else {}
        for key in COMPARED_SETTINGS:
            other, own = beside.get(synonyms.get(key, key)), source.settings.get(key)
            if None not in (other, own) and str(other).lower() != str(own).lower():
                source.contradict(f"{key} is {own!r} in config.json and {other!r} in {name}")


def described_tensors(
    directory: Path, config: Mapping[str, Any], tensors: TensorIndex, importer: Importer, folder: Path
) -> TensorIndex:
    """Return the tensors that a conversion would write, and write into a folder what describes them; no weights.

    Args:
        directory: the checkpoint.
        config: its config.json.
        tensors: its tensors.
        importer: reads them.
        folder: where config.json and the description go.

    Raises:
        UserError: something of it can't be represented; one class per cause.
    """
    imported = read_foreign(directory, config, tensors, importer)
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    (folder / "config.json").write_text(json.dumps(plain), encoding="utf-8")
    _write_description(folder / QUANT_CONFIG, imported)
    made = {}
    for name, tensor in _all_tensors(tensors, imported).items():
        nbytes = math.prod(tensor.shape) * ELEMENT_BYTES[tensor.element_type]
        made[name] = TensorEntry(
            name=name,
            element_type=tensor.element_type,
            shape=tuple(tensor.shape),
            file=folder / SINGLE_FILE,
            offset=0,
            nbytes=nbytes,
        )
    return made


def _all_tensors(tensors: TensorIndex, imported: Imported) -> dict[str, NewTensor | TensorEntry]:
    """Return every tensor of the result: new ones, and those of the source that stay."""
    kept: dict[str, NewTensor | TensorEntry] = {n: e for n, e in tensors.items() if n not in imported.replaced}
    for module, parts in imported.layers.items():
        kept.update({f"{module}.{suffix}": tensor for suffix, tensor in parts.items()})
    return kept | dict(imported.others)


def _copy_other_files(directory: Path, config: Mapping[str, Any], made: Path) -> None:
    """Copy all but the weights, with a config.json that describes no quantization."""
    for path in directory.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and path.name not in (INDEX_FILE, "config.json"):
            shutil.copyfile(path, made / path.name)
    if (directory / TEMPLATE_FOLDER).is_dir():
        shutil.copytree(directory / TEMPLATE_FOLDER, made / TEMPLATE_FOLDER)
    plain = {key: value for key, value in config.items() if key != "quantization_config"}
    (made / "config.json").write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


def _write_description(path: Path, imported: Imported) -> None:
    """Write hf_quant_config.json; sizes of blocks and zero points follow from the tensors."""
    name, _, version = imported.producer.partition(" ")
    algorithms = set(imported.algorithms.values())
    quantization: dict[str, Any] = {"kv_cache_quant_algo": imported.kv_cache}
    if len(algorithms) == 1:
        quantization["quant_algo"] = next(iter(algorithms))
    else:
        layers = {module: {"quant_algo": algorithm} for module, algorithm in imported.algorithms.items()}
        quantization |= {"quant_algo": MIXED, "quantized_layers": layers}
    producer = {"name": name} | ({"version": version} if version else {})
    path.write_text(json.dumps({"producer": producer, "quantization": quantization}, indent=2) + "\n", encoding="utf-8")


def _write_safetensors(path: Path, tensors: Mapping[str, NewTensor | TensorEntry], report: Reporter) -> None:
    """Write one safetensors file, holding one tensor at a time (format: ``checkpoint/safetensors_header.py``)."""
    described: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + math.prod(tensor.shape) * ELEMENT_BYTES[tensor.element_type]
        described[name] = {"dtype": tensor.element_type, "shape": list(tensor.shape), "data_offsets": [start, end]}
    header = json.dumps(described).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        for index, tensor in enumerate(tensors.values()):
            if isinstance(tensor, NewTensor):
                np.ascontiguousarray(tensor.make()).tofile(stream)
            else:
                _copy_bytes(tensor, stream)
            report.progress(index + 1, len(tensors), "tensors converted")


def _copy_bytes(entry: TensorEntry, stream: Any) -> None:
    with entry.file.open("rb") as source:
        source.seek(entry.offset)
        remaining = entry.nbytes
        while remaining:
            chunk = source.read(min(CHUNK_BYTES, remaining))
            stream.write(chunk)
            remaining -= len(chunk)
