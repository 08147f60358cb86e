"""Reads config.json, and says what lies in a directory without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgellm_core.checkpoint.adapters import refuse_adapter
from edgellm_core.checkpoint.config_types import require_types
from edgellm_core.checkpoint.errors import NotACheckpointError
from edgellm_core.untrusted import UnreadableFileError, read_json_object, require_regular_file

if TYPE_CHECKING:
    from pathlib import Path


def read_config(directory: Path) -> dict[str, Any]:
    """Return a model directory's config.json.

    Raises:
        NotACheckpointError: there is none; the message says what lies there instead.
        UnreadableFileError: directory or file can't be read.
        CorruptJsonError: it does not parse.
        NotAFileError: the directory holds a FIFO, a socket or a device.
        AdapterError: the directory holds an adapter.
        ConfigValueError: a value has a type that it never has.
    """
    try:
        names = sorted(entry.name for entry in directory.iterdir())
    except OSError as error:
        raise UnreadableFileError(directory, error) from error
    _refuse_special_files(directory)
    refuse_adapter(directory, names)
    if "config.json" not in names:
        raise NotACheckpointError(directory, f"no config.json ({_describe(names)})", _remedy(directory, names))
    config = read_json_object(directory / "config.json")
    require_types(directory / "config.json", config)
    return config


def _refuse_special_files(directory: Path) -> None:
    """Refuse a directory with a FIFO, socket or device: the libraries that read checkpoints would wait for it."""
    for entry in directory.iterdir():
        if entry.exists() and not entry.is_dir():
            require_regular_file(entry)


def _describe(names: list[str]) -> str:
    """Say what a directory holds."""
    if not names:
        return "it is empty"
    return "it holds " + ", ".join(names[:4]) + (", …" if len(names) > 4 else "")


def _remedy(directory: Path, names: list[str]) -> str:
    """Say what to give instead."""
    gguf = next((name for name in names if name.endswith(".gguf")), None)
    if gguf is not None:
        return f"Give the GGUF file itself: '{directory / gguf}'."
    return "Give the directory that holds config.json and the safetensors files."
