"""What can be wrong with a checkpoint: one class per cause, each says what was read and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.errors import UserError, shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CONVERT_REMEDY = (
    "Load it once with transformers and write it with model.save_pretrained(DIR), which writes safetensors."
)


class MissingPathError(UserError):
    """A path was given where nothing is."""

    def __init__(self, source: str) -> None:
        """Build the sentence from the path as the user gave it."""
        super().__init__(f"There is nothing at '{source}'. Check the path; a hub model is written owner/name.")


class NotACheckpointError(UserError):
    """A path was given that does not hold a model."""

    def __init__(self, path: Path, finding: str, remedy: str) -> None:
        """Build ``<path> is not a model directory: <finding>. <remedy>``."""
        super().__init__(f"'{path}' is not a model directory: {finding}. {remedy}")


class PickleCheckpointError(UserError):
    """The weights exist only as pickle files, which can run code when they are read."""

    def __init__(self, source: str, files: Sequence[str]) -> None:
        """Build the sentence from the source and its pickle files."""
        shown = ", ".join(files[:3]) + (", …" if len(files) > 3 else "")
        super().__init__(
            f"{source!r} has its weights only as pickle files ({shown}), which edgellm never reads. {CONVERT_REMEDY}"
        )


class NoWeightsError(UserError):
    """There is a config.json, but no weights in a form that is read."""

    def __init__(self, source: str, found: Sequence[str]) -> None:
        """Build the sentence from the source and the safetensors files with other names."""
        finding = f"only {', '.join(found[:3])}" if found else "none of them"
        super().__init__(
            f"{source!r} needs model.safetensors, model.safetensors.index.json or one set of files like "
            f"model-00001-of-00002.safetensors; it has {finding}. "
            "Copy the weights beside config.json under these names."
        )


PROMPT_METHODS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "ADAPTION_PROMPT", "CPT")
"""Adapters that add inputs instead of weights (PEFT, ``PeftType``)."""


class AdapterError(UserError):
    """A path was given that holds an adapter instead of a model."""

    def __init__(
        self, source: str, *, base: str | None = None, kind: str = "LORA", weights: Sequence[str] = ()
    ) -> None:
        """Name the base model, and the command that merges the adapter into it.

        Args:
            source: the folder, or the hub repository.
            base: the model that the adapter belongs to; None where that is not known.
            kind: PEFT's name of the method.
            weights: a file of whole weights that lies beside the adapter.
        """
        name = "LoRA" if kind == "LORA" else kind
        problem = (
            f"{source!r} is a{'n' if name[0] in 'AIO' else ''} {name} adapter of {base or 'another model'}, no model"
        )
        if kind in PROMPT_METHODS:
            super().__init__(f"{problem}, and has no weights that could be merged. Build its base model instead.")
            return
        merged = f"{source.rstrip('/')}-merged"
        remedy = (
            "from peft import AutoPeftModelForCausalLM as Adapter; "
            f"Adapter.from_pretrained({source!r}).merge_and_unload().save_pretrained({merged!r})"
        )
        whole = (
            f" If {weights[0]} holds the merged model already, remove adapter_config.json instead." if weights else ""
        )
        super().__init__(
            f"{problem}. Merge it: pip install peft, run Python with: {remedy}; copy the base model's tokenizer into "
            f"{merged!r} and build that.{whole}"
        )


class ConfigValueError(UserError):
    """A key of config.json has a value that it never has."""

    def __init__(self, path: Path, key: str, wanted: str, value: object) -> None:
        """Build ``'…/config.json' must have … under 'key'; got …``."""
        super().__init__(f"'{path}' must have {wanted} under {key!r}; got {shown(value)}. Correct config.json.")


class ConfigSizeError(UserError):
    """A size in config.json is none that the checkpoint's tensors can have."""

    def __init__(self, path: Path, key: str, wanted: str, value: int, reason: str) -> None:
        """Build ``'…/config.json' must have at most 80 under 'key', since …; got …``."""
        super().__init__(
            f"'{path}' must have {wanted} under {key!r}, since {reason}; got {shown(value)}. Take the config.json that "
            "belongs to the weights."
        )


class TruncatedFileError(UserError):
    """A file ends before the data that its header promises."""

    def __init__(self, path: Path, *, expected: int, found: int) -> None:
        """Build the sentence from the file and its sizes in bytes."""
        super().__init__(
            f"'{path}' is truncated: its header promises {expected} bytes, the file has {found}. "
            "Copy or download it again."
        )


class CorruptSafetensorsError(UserError):
    """A safetensors file breaks its format."""

    def __init__(self, path: Path, problem: str) -> None:
        """Build the sentence from the file and what is wrong in it."""
        super().__init__(f"'{path}' is not a valid safetensors file: {problem}. Copy or download it again.")


class MissingShardError(UserError):
    """An index of shards names a file that is not there."""

    def __init__(self, index: Path, missing: Sequence[str], shards: int) -> None:
        """Build the sentence from the index, the missing files and the number of shards."""
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        super().__init__(
            f"'{index}' names {shards} shards, and {len(missing)} of them are missing: {shown}. "
            "Copy or download them into the same directory."
        )


class ShardIndexError(UserError):
    """An index of shards and the shards disagree."""

    def __init__(self, index: Path, problem: str) -> None:
        """Build the sentence from the index and the disagreement."""
        super().__init__(f"'{index}' disagrees with its shards: {problem}. Copy or download the checkpoint again.")


class LinkOutsideError(UserError):
    """A file of a checkpoint is a link to something that does not belong to it."""

    def __init__(self, path: Path, target: Path | None) -> None:
        """Name the link and where it leads; None for nowhere."""
        place = "nowhere" if target is None else f"{str(target)!r}, outside of its folder"
        super().__init__(
            f"{str(path)!r} must be a file of the checkpoint; it is a link that leads {'' if target is None else 'to '}"
            f"{place}. Put the file itself there if it belongs to the checkpoint, or remove the link."
        )


class SourceChangedError(UserError):
    """The files of a checkpoint were written while they were read."""

    def __init__(self, directory: Path) -> None:
        """Name the directory."""
        super().__init__(
            f"Files of {str(directory)!r} changed while it was read, so what was made of it is of no one checkpoint. "
            "Wait until nothing writes there, and start again."
        )


class DifferingCopiesError(UserError):
    """Two files of a checkpoint hold a tensor of the same name, and the two differ."""

    def __init__(self, name: str, first: Path, second: Path) -> None:
        """Build the sentence from the tensor and both files."""
        super().__init__(
            f"Tensor {name!r} lies in {first.name} and in {second.name}, and the two differ. Remove the wrong file or "
            "tensor, or copy or download the checkpoint again."
        )


class CorruptGgufError(UserError):
    """A GGUF file breaks its format or can't be converted."""

    def __init__(self, path: Path, problem: str) -> None:
        """Build the sentence from the file and what is wrong in it."""
        super().__init__(f"'{path}' is not a valid GGUF file: {problem}. Copy or download it again.")


class MissingGgufPartError(UserError):
    """A GGUF model was split into several files, and not all are there."""

    def __init__(self, path: Path, missing: Sequence[str], count: int) -> None:
        """Build the sentence from the file that was named, the missing ones and the number of parts."""
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        super().__init__(
            f"'{path}' is one of {count} parts of a model, and {len(missing)} of them are missing: {shown}. "
            "Copy or download them into the same directory."
        )


class GgufArchitectureError(UserError):
    """No family reads a GGUF architecture."""

    def __init__(self, path: Path, architecture: str, known: Sequence[str]) -> None:
        """Build the sentence from the file, its architecture and those that are read."""
        super().__init__(
            f"'{path}' has the GGUF architecture {architecture!r}, which no family reads; "
            f"those that are read: {', '.join(known)}. Use the model's safetensors checkpoint."
        )


class GgufAccountError(UserError):
    """Something in a GGUF file would change the math, and it is not known how."""

    def __init__(self, path: Path, architecture: str, finding: str) -> None:
        """Build the sentence from the file, its architecture, and what is there or lacks."""
        super().__init__(
            f"'{path}' (GGUF architecture {architecture!r}) can't be read without a loss: {finding}. "
            "Use the model's safetensors checkpoint."
        )


class GgufReadersDisagreeError(UserError):
    """Two independent readings of a GGUF file differ."""

    def __init__(self, path: Path, finding: str) -> None:
        """Build the sentence from the file and the difference."""
        super().__init__(
            f"Two independent readings of '{path}' differ: {finding}. Use the model's safetensors checkpoint."
        )


class GgufConversionError(UserError):
    """The tokenizer or the config of a GGUF file can't be turned into files of a checkpoint."""

    def __init__(self, path: Path, architecture: str, problem: str) -> None:
        """Build the sentence from the file, its architecture and the reason."""
        super().__init__(
            f"transformers can't read '{path}' (GGUF architecture {architecture!r}): {problem}. "
            "Use the model's safetensors checkpoint."
        )


class HubError(UserError):
    """A hub repository can't be read."""

    def __init__(self, repository: str, problem: str, remedy: str) -> None:
        """Build ``Can't get <repository> from the hub: <problem>. <remedy>``."""
        super().__init__(f"Can't get {repository!r} from the hub: {problem}. {remedy}")


class DiskSpaceError(UserError):
    """A file system has less free space than a step is about to write."""

    resumable = True

    def __init__(self, what: str, path: Path, *, needed: int, free: int) -> None:
        """Build the sentence from what is to be written, where, and the bytes needed and free."""
        super().__init__(
            f"{what} needs {needed / 2**30:.1f} GiB on the file system of '{path}'; {free / 2**30:.1f} GiB are free. "
            "Free some space, or choose another place with EDGELLM_CACHE or HF_HOME."
        )


class CacheWriteError(UserError):
    """The cache directory can't be written."""

    def __init__(self, path: Path, error: OSError) -> None:
        """Build the sentence from the path and the system's reason."""
        reason = error.strerror or type(error).__name__
        super().__init__(f"Can't write the cache '{path}': {reason}. Set EDGELLM_CACHE to a writable directory.")


class LfsPointerError(UserError):
    """A file of the tokenizer was not downloaded."""

    def __init__(self, path: Path) -> None:
        """Build the sentence from the path."""
        super().__init__(
            f"'{path}' must hold a tokenizer; it is a pointer of Git LFS. Run git lfs pull there, or download the file."
        )


class VocabularyMissingError(UserError):
    """There are settings of a tokenizer, but no tokens."""

    def __init__(self, directory: Path, found: Sequence[str]) -> None:
        """Build the sentence from the directory and the files that it has."""
        super().__init__(
            f"'{directory}' must have the tokens of its tokenizer; it has only {', '.join(found)}. Put tokenizer.json "
            "there, or remove these files to build a model that takes token ids."
        )
