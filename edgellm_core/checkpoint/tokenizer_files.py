"""The files that a tokenizer and its chat templates are made of: which there are, and what they alone show."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import TYPE_CHECKING, Final

from edgellm_core.checkpoint.errors import LfsPointerError, VocabularyMissingError
from edgellm_core.untrusted.errors import UnreadableFileError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

VOCABULARIES: Final = (
    "tokenizer.json", "*.model", "tokenizer.model.*", "*.spm", "*.tiktoken", "tekken.json", "vocab.json", "vocab.txt",
    "prophetnet.tokenizer", "byte_maps.json",
)  # fmt: skip
"""Files that hold tokens (``vocab_files_names`` of transformers' tokenizer classes)."""

SETTINGS: Final = (
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt", "chat_template.jinja",
    "chat_template.json",
)  # fmt: skip
"""Files that say how the tokens are used."""

TEMPLATE_FOLDER: Final = "additional_chat_templates"
LFS_START: Final = b"version https://git-lfs.github.com/spec/"
"""How the text begins that stands in for a file whose content Git LFS did not download."""


def tokenizer_files(directory: Path) -> tuple[Path, ...]:
    """Return the files of the tokenizer and its chat templates that exist, sorted."""
    found = [path for path in directory.iterdir() if _is_one_of(path.name, (*VOCABULARIES, *SETTINGS))]
    templates = (directory / TEMPLATE_FOLDER).glob("*.jinja")
    return tuple(sorted(path for path in (*found, *templates) if path.is_file()))


def require_vocabulary(directory: Path) -> None:
    """Refuse a directory whose tokenizer files can't be those of a tokenizer; one without any passes.

    Raises:
        LfsPointerError: a file is a pointer of Git LFS.
        VocabularyMissingError: there are settings and no tokens; transformers makes an empty tokenizer of them.
        UnreadableFileError: a file can't be read.
    """
    files = tokenizer_files(directory)
    for path in files:
        try:
            with path.open("rb") as stream:
                start = stream.read(len(LFS_START))
        except OSError as error:
            raise UnreadableFileError(path, error) from error
        if start == LFS_START:
            raise LfsPointerError(path)
    if files and not any(_is_one_of(path.name, VOCABULARIES) for path in files):
        raise VocabularyMissingError(directory, [path.name for path in files])


def _is_one_of(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
