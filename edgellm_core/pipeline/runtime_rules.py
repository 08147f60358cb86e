"""What of the rules for a runtime the user of a bundle has to know."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from edgellm_core.bundle import RuntimeRecord
    from edgellm_core.contract import Target
    from edgellm_core.events import Reporter
    from edgellm_core.tracing.template import Reread


def tell_rules(record: RuntimeRecord, reread: Reread | None, *, target: Target, folder: Path, report: Reporter) -> None:
    """Say what is unusual about what a runtime has to do.

    Args:
        record: what it has to do.
        reread: where ``generate`` drops its cache.
        target: what the graph was lowered for.
        folder: folder of the graph, with its tokenizer.
        report: told about it.
    """
    if reread:
        report.note(_reread_note(reread))
    if record.not_applied:
        names = ", ".join(f"{name} = {value!r}" for name, value in record.not_applied.items())
        report.note(f"edgellm run does not apply {names} of the checkpoint; transformers' generate does.")
    for note in (*_end_notes(record, folder), *target.runtime_notes(record)):
        report.note(note)


def _reread_note(reread: Reread) -> str:
    if reread.loses_context:
        return (
            f"transformers' generate forgets all that came before where a text reaches {reread.at} tokens, a defect of "
            f"its code for this model; edgellm run reads everything again there (reread_at in bundle.json)."
        )
    return (
        f"Where a text reaches {reread.at} tokens, the model needs all of it read again with an empty cache, as "
        f"transformers' generate does: reread_at in bundle.json. edgellm run does it."
    )


def _end_notes(record: RuntimeRecord, folder: Path) -> list[str]:
    """Say that answers run on after the tokenizer's end token, where transformers' do too."""
    from edgellm_core.runtime.tokenizer import BundleTokenizer

    if not (folder / "tokenizer.json").is_file():
        return []
    tokenizer = BundleTokenizer(folder)
    if tokenizer.eos_id is None or tokenizer.eos_id in record.stop_tokens:
        return []
    name = tokenizer.special_tokens["eos_token"]
    note = (
        f"Answers go on after {name!r} ({tokenizer.eos_id}), the tokenizer's end token, as those of transformers do: "
        "add it to eos_token_id in the checkpoint's generation_config.json where they should end."
    )
    return [note]
