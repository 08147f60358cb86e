"""Writes a bundle's tokenizer: the source's files where they say the same, else those that transformers saves."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.bundle import TokenizerRecord
from edgellm_core.checkpoint.family_code import register_model
from edgellm_core.checkpoint.tokenizer_files import TEMPLATE_FOLDER, require_vocabulary, tokenizer_files
from edgellm_core.runtime.chat_template import TEMPLATE_FILE, read_chat_templates
from edgellm_core.runtime.errors import TokenizerFileError
from edgellm_core.runtime.generation_settings import read_generation_config, stop_tokens
from edgellm_core.runtime.tokenizer import BundleTokenizer, read_settings
from edgellm_core.tokenization.comparison import PARTS, Compared, compare, knows_text
from edgellm_core.tokenization.errors import EmptyTokenizerError, NoTokenizerFileError, TokenizerDiffersError
from edgellm_core.tokenization.patterns import require_bounded_patterns
from edgellm_core.tokenization.reference import load_reference, quiet
from edgellm_core.tokenization.vocabulary import beyond_embedding, tell_failing_template, tell_turn_end

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.contract import ModelFamily
    from edgellm_core.events import Reporter

ADAPTED: Final = ("model", "normalizer", "decoder")
"""Parts that are the same in every bundle; a target may write the splits of the pre-tokenizer in other words."""

UNREADABLE: Final = "there is no tokenizer.json that can be read"


def write_tokenizer(
    checkpoint: Checkpoint, family: ModelFamily, folder: Path, report: Reporter, *, compared: bool = True
) -> TokenizerRecord:
    """Write tokenizer and chat templates into a bundle, as transformers reads those of the source.

    Args:
        checkpoint: the source.
        family: has a chat template for a source without.
        folder: ``llm`` of the bundle.
        report: told what is missing, was written anew, or is no stop token.
        compared: compare them; else they are only completed where the source's files alone say less than transformers
            reads from them.

    Returns:
        What the manifest says of it.

    Raises:
        UserError: the tokenizer can't be read, is empty or another model's, or differs; one class per cause.
    """
    if not checkpoint.tokenizer_files():
        report.note("The checkpoint has no tokenizer; the bundle runs on token ids only.")
        return TokenizerRecord(status="none")
    require_vocabulary(checkpoint.directory)
    register_model(family)
    _copy(checkpoint, folder)
    require_bounded_patterns(folder / "tokenizer.json", checkpoint.directory)
    template = _stand_in(family, folder, report)
    check = _compared if compared else _completed
    record = check(checkpoint, template, folder, report)
    tokenizer = BundleTokenizer(folder)
    tell_failing_template(tokenizer, report)
    tell_turn_end(tokenizer, stop_tokens(read_generation_config(checkpoint.directory)), report)
    return record.model_copy(update={"beyond_embedding": beyond_embedding(tokenizer, checkpoint, report)})


def _copy(checkpoint: Checkpoint, folder: Path) -> None:
    for path in checkpoint.tokenizer_files():
        copy = folder / path.relative_to(checkpoint.directory)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)


def _stand_in(family: ModelFamily, folder: Path, report: Reporter) -> str | None:
    """Write the family's chat template where there is none, and return it."""
    template = family.chat_template()
    try:
        found = read_chat_templates(folder, read_settings(folder / "tokenizer_config.json"))
    except TokenizerFileError:
        return None  # transformers, which reads it next, says why
    if template is None or found:
        return None
    (folder / TEMPLATE_FILE).write_text(template, encoding="utf-8")
    report.note(f"The checkpoint has no chat template; the bundle takes that of family {family.name!r}.")
    return template


def _compared(checkpoint: Checkpoint, template: str | None, folder: Path, report: Reporter) -> TokenizerRecord:
    reference = _reference(checkpoint, template)
    name = type(reference).__name__
    found = _compare(folder, reference)
    first = found.difference
    if first is not None:
        _write_anew(checkpoint.directory, reference, folder)
        found = _compare(folder, reference)
        if found.difference is not None:
            raise TokenizerDiffersError(checkpoint.directory, name, found.difference, written=True)
        report.note(f"The tokenizer is written anew, as transformers saves it: in the source's own form {first}.")
    return TokenizerRecord(
        status="equal" if first is None else "written",
        reference=name,
        texts=found.texts,
        chats=found.chats,
        written=None if first is None else str(first),
    )


def check_tokenizer(
    checkpoint: Checkpoint, family: ModelFamily, folder: Path, earlier: TokenizerRecord | None
) -> TokenizerRecord:
    """Compare the tokenizer of a bundle that exists already; write nothing.

    Args:
        checkpoint: the source.
        family: its chat template stood in for a missing one.
        folder: ``llm`` of the bundle.
        earlier: what its manifest says of it.

    Returns:
        What the manifest has to say now.

    Raises:
        UserError: the source's tokenizer can't be read, or the bundle's differs; one class per cause.
    """
    if not checkpoint.tokenizer_files():
        return TokenizerRecord(status="none")
    register_model(family)
    reference = _reference(checkpoint, None)
    if not reference.chat_template:
        reference.chat_template = family.chat_template()
    name = type(reference).__name__
    found = _compare(folder, reference, ADAPTED)
    if found.difference is not None:
        raise TokenizerDiffersError(checkpoint.directory, name, found.difference, written=False)
    record = earlier or TokenizerRecord(status="equal")
    status = "equal" if record.written is None else "written"
    proved = {"status": status, "reference": name, "texts": found.texts, "chats": found.chats}
    return record.model_copy(update=proved)


def _compare(folder: Path, reference: Any, parts: Sequence[str] = PARTS) -> Compared:
    try:
        tokenizer = BundleTokenizer(folder)
    except TokenizerFileError:
        return Compared(0, 0, UNREADABLE)
    return compare(tokenizer, reference, parts)


def _completed(checkpoint: Checkpoint, template: str | None, folder: Path, report: Reporter) -> TokenizerRecord:
    lacking = _lacking(folder)
    if lacking is not None:
        report.note(f"The tokenizer is written anew, as transformers saves it: in the source's own form {lacking}.")
        _write_anew(checkpoint.directory, _reference(checkpoint, template), folder)
    return TokenizerRecord(status="skipped", written=lacking)


def _lacking(folder: Path) -> str | None:
    """Return what the runtime, which reads two files, would miss; None where there is nothing."""
    try:
        tokenizer = BundleTokenizer(folder)
        settings = read_settings(folder / "tokenizer_config.json")
        named = read_settings(folder / "special_tokens_map.json")
        added = read_settings(folder / "added_tokens.json")
    except TokenizerFileError:
        return UNREADABLE
    for name, value in named.items():
        if isinstance(value, (str, dict)) and name not in tokenizer.special_tokens:
            return f"its {name} stands only in special_tokens_map.json"
    decoder = settings.get("added_tokens_decoder")
    listed = decoder.items() if isinstance(decoder, dict) else ()
    stated = [(token.get("content"), key) for key, token in listed if isinstance(token, dict)]
    known = {(token.content, str(identifier)) for identifier, token in tokenizer.added_tokens.items()}
    missing = [pair for pair in (*stated, *((text, str(key)) for text, key in added.items())) if pair not in known]
    return f"tokenizer.json lacks the added token {missing[0][0]!r}" if missing else None


def _reference(checkpoint: Checkpoint, template: str | None) -> Any:
    """Return transformers' tokenizer of the source, with the family's chat template where that stands in."""
    reference = load_reference(checkpoint.directory, trust_remote_code=checkpoint.trust_remote_code)
    if not knows_text(reference):
        raise EmptyTokenizerError(checkpoint.directory, type(reference).__name__)
    if template is not None:
        reference.chat_template = template
    return reference


def _write_anew(source: Path, reference: Any, folder: Path) -> None:
    """Replace the tokenizer by what transformers saves, in the form that the runtime reads."""
    for path in tokenizer_files(folder):
        path.unlink()
    shutil.rmtree(folder / TEMPLATE_FOLDER, ignore_errors=True)
    with quiet():
        reference.save_pretrained(folder)
    if not (folder / "tokenizer.json").is_file():
        raise NoTokenizerFileError(source, type(reference).__name__)
