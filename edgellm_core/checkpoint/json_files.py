"""Reads the JSON files of a checkpoint, with file, line and column in errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from edgellm_core.checkpoint.adapters import refuse_adapter
from edgellm_core.checkpoint.config_types import require_types
from edgellm_core.checkpoint.errors import CorruptJsonError, NotACheckpointError, UnreadableFileError

if TYPE_CHECKING:
    from pathlib import Path


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        UnreadableFileError: the file can't be read.
        CorruptJsonError: it is not UTF-8, not JSON, or not an object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UnreadableFileError(path, error) from error
    except UnicodeDecodeError as error:
        raise CorruptJsonError(path, f"byte {error.start} is not UTF-8") from error
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        problem = f"not valid JSON ({error.msg.lower()})" if text.strip() else "the file is empty"
        raise CorruptJsonError(path, problem, error.lineno, error.colno) from error
    except RecursionError as error:
        raise CorruptJsonError(path, "nested too deeply") from error
    if not isinstance(value, dict):
        raise CorruptJsonError(path, f"expected an object, found {type(value).__name__}", 1, 1)
    return value


def read_config(directory: Path) -> dict[str, Any]:
    """Return a model directory's config.json.

    Raises:
        NotACheckpointError: there is none; the message says what lies there instead.
        UnreadableFileError: directory or file can't be read.
        CorruptJsonError: it does not parse.
        AdapterError: the directory holds an adapter.
        ConfigValueError: a value has a type that it never has.
    """
    try:
        names = sorted(entry.name for entry in directory.iterdir())
    except OSError as error:
        raise UnreadableFileError(directory, error) from error
    refuse_adapter(directory, names)
    if "config.json" not in names:
        raise NotACheckpointError(directory, f"no config.json ({_describe(names)})", _remedy(directory, names))
    config = read_json(directory / "config.json")
    require_types(directory / "config.json", config)
    return config


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
