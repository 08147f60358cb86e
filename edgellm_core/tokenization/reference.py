"""transformers' own tokenizer of a source: what the bundle's has to equal."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any

from edgellm_core.errors import one_line
from edgellm_core.runtime.errors import TokenizerFileError
from edgellm_core.runtime.tokenizer import is_panic, read_settings
from edgellm_core.tokenization.errors import OwnTokenizerCodeError, TokenizerUnreadableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def load_reference(directory: Path, *, trust_remote_code: bool = False) -> Any:
    """Return the tokenizer that ``AutoTokenizer`` reads in a directory.

    Args:
        directory: the source.
        trust_remote_code: let the checkpoint's own code run.

    Raises:
        OwnTokenizerCodeError: it is code of the checkpoint's own, which is not trusted.
        TokenizerUnreadableError: transformers, or a library below it, can't read it.
    """
    try:
        own_class = _own_class(read_settings(directory / "tokenizer_config.json"))
    except TokenizerFileError as error:
        raise TokenizerUnreadableError(directory, one_line(error)) from error
    try:
        with quiet():
            return _load(directory, trust_remote_code=trust_remote_code)
    except BaseException as error:  # any library's exception, and panics of Rust, which are no Exception
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        if own_class and not trust_remote_code:
            raise OwnTokenizerCodeError(directory, own_class) from error
        raise TokenizerUnreadableError(directory, f"{type(error).__name__}: {_first_line(error)}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what transformers says about tokenizers off the terminal: what matters is compared."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)


def _load(directory: Path, *, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

    settings: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(directory, **settings)
    except Exception:  # noqa: BLE001  # what is wrong with config.json is said by the trace, not by its tokenizer
        config = PreTrainedConfig()
    return AutoTokenizer.from_pretrained(directory, config=config, **settings)


def _own_class(settings: dict[str, Any]) -> str:
    """Return the class that ``auto_map`` of tokenizer_config.json names; empty where it names none."""
    named = settings.get("auto_map")
    classes = named.get("AutoTokenizer") if isinstance(named, dict) else named
    first = next((name for name in classes if name), "") if isinstance(classes, list) else classes
    return first if isinstance(first, str) else ""


def _first_line(error: BaseException) -> str:
    return one_line((str(error).strip().splitlines() or ["no reason given"])[0])
