"""Turns a GGUF file into a safetensors checkpoint, once, and keeps it in the cache directory."""

from __future__ import annotations

import hashlib
import importlib
import math
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.checkpoint.conversion_cache import conversion_directory, write_conversion
from edgellm_core.checkpoint.errors import GgufConversionError, UnreadableFileError
from edgellm_core.checkpoint.gguf_config import architecture, stop_tokens
from edgellm_core.checkpoint.gguf_header import GgufHeader, read_gguf_header
from edgellm_core.settings import LARGEST_FP16

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from edgellm_core.events import Reporter

CONVERSION_VERSION: Final = 1
"""Raise it when the conversion writes something else; older conversions are then made again."""

SINGLE_DIGIT_SPLITS: Final = frozenset(
    {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
)
"""``tokenizer.ggml.pre`` of vocabularies that split every digit off before GPT-2's pattern.

Source: llama.cpp, ``src/llama-vocab.cpp``, the case of ``LLAMA_VOCAB_PRE_TYPE_SMOLLM``. transformers 5.23 gives these
GPT-2's pattern alone, which joins blanks before a digit differently.
"""

_GPT2_SPLITS: Final = frozenset({"default", "gpt-2", "mpt", "olmo", "jais"})


def file_digest(file: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    try:
        with file.open("rb") as stream:
            return _sha256(stream)
    except OSError as error:
        raise UnreadableFileError(file, error) from error


def converted_checkpoint(file: Path, digest: str, report: Reporter) -> Path:
    """Return the directory of the converted checkpoint; convert the file where that was not done before.

    Weights are float16, or float32 where a value leaves float16's range.

    Args:
        file: the GGUF file.
        digest: its sha256.
        report: told how long it took.

    Raises:
        CorruptGgufError: the header is not valid.
        TruncatedFileError: the file is shorter than its header says.
        GgufConversionError: transformers can't read the architecture or the tokenizer.
        DiskSpaceError: the checkpoint does not fit into the cache.
        CacheWriteError: the cache can't be written.
    """
    header = read_gguf_header(file)
    directory = conversion_directory(digest, CONVERSION_VERSION)
    if directory.is_dir():
        return directory
    parameters = sum(math.prod(tensor.shape) for tensor in header.tensors)
    report.note(f"Dequantizing '{file.name}' ({parameters / 1e6:.0f} M parameters) through transformers; done once.")
    write_conversion(
        directory, lambda made: _convert(header, made, report), what=f"Dequantizing '{file}'", needed=2 * parameters
    )
    report.note(f"Dequantized in {report.seconds:.1f} s.")
    return directory


def _sha256(stream: Any) -> str:
    """Hash a binary stream in chunks (``hashlib.file_digest`` needs Python 3.11)."""
    digest = hashlib.sha256()
    while chunk := stream.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def _convert(header: GgufHeader, directory: Path, report: Reporter) -> None:
    """Write model, tokenizer and generation config."""
    with _quiet(report), _conversion_errors(header):
        model = _load_model(header)
        if _narrow(model) == "F32":
            report.note("A weight leaves the range of float16, so the checkpoint is kept in float32.")
        model.generation_config = _generation_config(header, model.config)
        model.save_pretrained(directory)
        tokenizer = _load_tokenizer(header, report)
        tokenizer.save_pretrained(directory)


def _load_model(header: GgufHeader) -> Any:
    """Load the model in float32; fields of the file that are no settings of the model are dropped from its config.

    Raises:
        GgufConversionError: the file lacks a tensor of the model.
    """
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    load: Any = AutoModelForCausalLM.from_pretrained  # its annotation leaves the loading info out
    model, loaded = load(
        header.file.parent,
        gguf_file=header.file.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
    )
    missing = sorted(loaded["missing_keys"])
    if missing:  # transformers would go on with random values
        raise GgufConversionError(header.file, architecture(header), f"the file lacks {', '.join(missing[:3])}")
    for key in ("unk_token_id", "_model_name_or_path"):
        if key in vars(model.config):
            delattr(model.config, key)
    return model


def _narrow(model: Any) -> str:
    """Cast the model to float16 in place, unless a value would overflow; return the element type."""
    import torch

    for tensor in model.state_dict().values():
        # The norm of the largest value is exact; NaN compares false and is left to the weight checks that name it.
        if tensor.is_floating_point() and tensor.numel() and float(tensor.abs().max()) > LARGEST_FP16:
            return "F32"
    model.to(torch.float16)
    return "F16"


def _generation_config(header: GgufHeader, config: Any) -> Any:
    """Return a generation config that stops at every end token that the file names."""
    import transformers

    make: Any = transformers.GenerationConfig  # not annotated
    stops = stop_tokens(header)
    return make(
        bos_token_id=config.bos_token_id,
        eos_token_id=(stops if len(stops) > 1 else stops[0]) if stops else config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )


def _load_tokenizer(header: GgufHeader, report: Reporter) -> Any:
    """Load the tokenizer and give it the split of its vocabulary where transformers does not know it."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(header.file.parent, gguf_file=header.file.name)
    split = header.fields.get("tokenizer.ggml.pre", "default")
    backend = tokenizer.backend_tokenizer
    if not isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel) or split in _GPT2_SPLITS:
        return tokenizer
    if split in SINGLE_DIGIT_SPLITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    else:
        report.note(f"transformers does not know the vocabulary split {split!r}; tokens may differ around digits.")
    return tokenizer


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


def _first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(". ")


@contextmanager
def _quiet(report: Reporter) -> Iterator[None]:
    """Silence transformers' progress bars and warnings; its loop over the tensors reports to ``report`` instead."""
    # Any: transformers is annotated in part only
    gguf_loader: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    logging: Any = importlib.import_module("transformers.utils.logging")

    def reporting_loop(items: Sequence[Any], **_settings: Any) -> Iterator[Any]:
        for index, item in enumerate(items):
            report.progress(index, len(items), "tensors dequantized")
            yield item

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    loop = getattr(gguf_loader, "tqdm", None)  # private: where it is gone, a bar may be seen, nothing else
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    gguf_loader.tqdm = reporting_loop
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        gguf_loader.tqdm = loop
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
