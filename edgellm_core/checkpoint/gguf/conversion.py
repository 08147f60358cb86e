"""Turns a GGUF file into a safetensors checkpoint, once, and keeps it in the cache directory."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.checkpoint.conversion_cache import conversion_directory, write_conversion
from edgellm_core.checkpoint.errors import GgufAccountError, GgufConversionError
from edgellm_core.checkpoint.family_code import register_model
from edgellm_core.checkpoint.gguf.config import read_gguf_config
from edgellm_core.checkpoint.gguf.forms import find_form
from edgellm_core.checkpoint.gguf.metadata import architecture, stop_tokens
from edgellm_core.checkpoint.gguf.plan import complete_plan, plan_tensors
from edgellm_core.checkpoint.shards import SINGLE_FILE
from edgellm_core.checkpoint.tensors import TensorEntry
from edgellm_core.memory import release_memory
from edgellm_core.untrusted.errors import UnreadableFileError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from edgellm_core.checkpoint.gguf.header import GgufHeader
    from edgellm_core.checkpoint.gguf.plan import TensorPlan
    from edgellm_core.checkpoint.tensors import TensorIndex
    from edgellm_core.contract import ModelFamily
    from edgellm_core.events import Reporter
    from edgellm_core.gguf_form import GgufForm
    from edgellm_core.host import PluginHost

NUMBERS: Final = frozenset({"F32", "F16", "BF16"})
"""Element types that are kept."""

CONVERSION_VERSION: Final = 3
"""Raise it when the conversion writes something else; older conversions are then made again."""


def file_digest(file: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    try:
        with file.open("rb") as stream:
            return _sha256(stream)
    except OSError as error:
        raise UnreadableFileError(file, error) from error


def model_digest(header: GgufHeader) -> str:
    """Return the digest of a model: that of its file, or over the digests of its parts in order."""
    digests = [file_digest(file) for file in header.files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def converted_checkpoint(header: GgufHeader, digest: str, host: PluginHost, report: Reporter) -> Path:
    """Return the directory of the converted checkpoint; convert the file where that was not done before.

    Numbers keep their type; what is quantized becomes float16, or float32 where a value leaves float16's range.

    Args:
        header: of the file, or of all parts.
        digest: from ``model_digest``.
        host: plugins; one of their families reads the architecture.
        report: told about progress, and what was found.

    Raises:
        GgufArchitectureError: no family reads the architecture.
        GgufAccountError: a key or a tensor would be lost, or the model lacks one.
        GgufReadersDisagreeError: two independent readings differ.
        GgufConversionError: transformers can't make the config or the tokenizer.
        DiskSpaceError: the checkpoint does not fit into the cache.
        CacheWriteError: the cache can't be written.
    """
    family, form = find_form(host, header)
    key = f"{digest}-{host.digest}"  # families' code reads the file
    directory = conversion_directory(key, CONVERSION_VERSION)
    if directory.is_dir():
        return directory
    parameters = sum(math.prod(tensor.shape) for tensor in header.tensors)
    report.note(f"Dequantizing '{header.file.name}' ({parameters / 1e6:.0f} M parameters); done once.")
    write_conversion(
        directory,
        lambda made: _convert(header, family, form, made, report),
        what=f"Dequantizing '{header.file}'",
        needed=written_bytes(header),
    )
    report.note(f"Dequantized in {report.seconds:.1f} s.")
    return directory


def described_tensors(header: GgufHeader, host: PluginHost, directory: Path) -> TensorIndex:
    """Return the tensors that a conversion would write, and write its config.json; no weights are read.

    Args:
        header: of the file, or of all parts.
        host: plugins; one of their families reads the architecture.
        directory: where config.json goes.

    Raises:
        GgufArchitectureError: no family reads the architecture.
        GgufAccountError: a key or a tensor would be lost, or the model lacks one.
        GgufConversionError: transformers can't make the config.
    """
    from edgellm_core.checkpoint.gguf.model import outline_model

    family, form = find_form(host, header)
    register_model(family)
    reading = read_gguf_config(header, family, form)
    plan = plan_tensors(header, reading.config, form)
    _refuse(header, [*reading.findings, *plan.findings])
    _write_json(directory / "config.json", reading.config)
    with _quiet(), _conversion_errors(header):
        plan = complete_plan(plan, outline_model(directory).shapes, form.renamed)
    _refuse(header, plan.findings)
    return {
        target.name: TensorEntry(
            name=target.name,
            element_type="F16",
            shape=target.shape,
            file=directory / SINGLE_FILE,
            offset=0,
            nbytes=2 * math.prod(target.shape),
        )
        for target in plan.targets
    }


def written_bytes(header: GgufHeader) -> int:
    """Return the bytes of the converted weights, unless values leave float16's range."""
    return sum((4 if tensor.element_type == "F32" else 2) * math.prod(tensor.shape) for tensor in header.tensors)


def _sha256(stream: Any) -> str:
    """Hash a binary stream in chunks (``hashlib.file_digest`` needs Python 3.11)."""
    digest = hashlib.sha256()
    while chunk := stream.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def _convert(header: GgufHeader, family: ModelFamily, form: GgufForm, directory: Path, report: Reporter) -> None:
    """Write config, weights, tokenizer and generation config, and hold them against a second reading."""
    register_model(family)
    reading = read_gguf_config(header, family, form)
    plan = plan_tensors(header, reading.config, form)
    _refuse(header, [*reading.findings, *plan.findings])
    directory.mkdir()
    _write_json(directory / "config.json", reading.config)
    with _quiet(), _conversion_errors(header):
        from edgellm_core.checkpoint.gguf.tokenizer import write_tokenizer

        write_tokenizer(header, directory, report)  # before transformers' models are imported: both take 150 MB
        release_memory()
        _weights(header, form, plan, reading.config, directory, report)
    _write_json(directory / "generation_config.json", _generation_config(header, reading.config))


def _weights(
    header: GgufHeader,
    form: GgufForm,
    plan: TensorPlan,
    config: dict[str, Any],
    directory: Path,
    report: Reporter,
) -> None:
    """Write the weights, and compare config and weights with a second reading."""
    from edgellm_core.checkpoint.gguf.config_check import check_config, left_out_by_transformers
    from edgellm_core.checkpoint.gguf.model import outline_model
    from edgellm_core.checkpoint.gguf.second_reader import SecondReader
    from edgellm_core.checkpoint.gguf.tensor_check import check_tensors
    from edgellm_core.checkpoint.gguf.writer import write_safetensors

    outline = outline_model(directory)
    plan = complete_plan(plan, outline.shapes, form.renamed)
    _refuse(header, plan.findings)
    reader = SecondReader(header.files)
    check_config(header, reader, form, outline)
    types = write_safetensors(directory / SINGLE_FILE, plan.targets, report)
    check_tensors(header, reader, form, plan.targets, directory / SINGLE_FILE, config)
    config["dtype"] = _dtype(plan, types)
    _write_json(directory / "config.json", config)
    _tell(header, plan, types, left_out_by_transformers(header, form, config), report)


def _refuse(header: GgufHeader, findings: Sequence[str]) -> None:
    """Refuse what would be lost; all of it in one sentence, but no more than three things.

    Raises:
        GgufAccountError: there is a finding.
    """
    if findings:
        more = f" (and {len(findings) - 3} more)" if len(findings) > 3 else ""
        raise GgufAccountError(header.file, architecture(header), "; ".join(findings[:3]) + more)


def _dtype(plan: TensorPlan, types: Mapping[str, str]) -> str:
    """Return transformers' name of the element type that most weights have."""
    sizes: dict[str, int] = {}
    for target in plan.targets:
        kind = types[target.name]
        sizes[kind] = sizes.get(kind, 0) + math.prod(target.shape)
    names = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
    return names[max(sizes, key=lambda kind: sizes[kind])]


def _tell(
    header: GgufHeader, plan: TensorPlan, types: Mapping[str, str], left_out: Sequence[str] | None, report: Reporter
) -> None:
    """Say what a user could not know from the file."""
    wide = [
        target.name
        for target in plan.targets
        if types[target.name] == "F32" and any(source.element_type not in NUMBERS for source in target.sources)
    ]
    if wide:
        report.note(f"{len(wide)} tensors leave the range of float16 and stay float32: {', '.join(wide[:3])}.")
    zeros = [target.name for target in plan.targets if not target.sources]
    if zeros:
        report.note(f"The file has no {', '.join(zeros[:3])}{', …' if len(zeros) > 3 else ''}; zero is written.")
    if left_out:
        report.note(f"transformers' own reader would leave out {', '.join(left_out)}; edgellm reads and checks them.")
    if left_out is None:
        report.note(
            f"transformers does not read GGUF architecture {architecture(header)!r}: the second reading has names and "
            "values of the gguf package, and transformers' reader of metadata."
        )
    report.note(f"All {len(header.tensors)} tensors and all metadata keys of the architecture are accounted for.")


def _generation_config(header: GgufHeader, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a generation config that stops at every end token that the file names."""
    stops = stop_tokens(header)
    found = {
        "bos_token_id": config.get("bos_token_id"),
        "eos_token_id": (stops if len(stops) > 1 else stops[0]) if stops else None,
        "pad_token_id": config.get("pad_token_id"),
    }
    return {key: value for key, value in found.items() if value is not None}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _conversion_errors(header: GgufHeader) -> Iterator[None]:
    """Turn what transformers raises over a file that it can't read into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:  # the system's: a full disk, a missing directory
            raise
        raise GgufConversionError(header.file, architecture(header), _first_line(error)) from error
    except (ValueError, KeyError, NotImplementedError, RuntimeError, TypeError, AttributeError, IndexError) as error:
        # transformers has no error class of its own for a GGUF file that does not fit
        raise GgufConversionError(header.file, architecture(header), _first_line(error)) from error
    except Exception as error:
        if type(error) is not Exception:  # what tokenizers raises over a vocabulary that does not fit
            raise
        raise GgufConversionError(header.file, architecture(header), _first_line(error)) from error


def _first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(". ")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' warnings, and compute in one thread: threads that wait for each other gain nothing here."""
    import torch

    logging: Any = importlib.import_module("transformers.utils.logging")  # annotated in part only
    verbosity, threads = logging.get_verbosity(), torch.get_num_threads()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)
        logging.set_verbosity(verbosity)
