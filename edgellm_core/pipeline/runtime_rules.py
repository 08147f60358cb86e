"""What the bundle tells a runtime to do beside running the graph, and what of it the user has to know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.runtime.generation_settings import runtime_record

if TYPE_CHECKING:
    from pathlib import Path

    from edgellm_core.bundle import RuntimeRecord
    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.contract import Target
    from edgellm_core.events import Reporter
    from edgellm_core.tracing.template import Reread


def runtime_rules(
    checkpoint: Checkpoint, reread: Reread | None, *, target: Target, folder: Path, report: Reporter
) -> RuntimeRecord:
    """Return what a runtime has to do, and say what is unusual about it.

    Args:
        checkpoint: the original.
        reread: where ``generate`` drops its cache.
        target: what the graph was lowered for.
        folder: folder of the graph, with its tokenizer.
        report: told about it.

    Raises:
        GenerationSettingError: a setting of the checkpoint is none that ``generate`` takes.
    """
    record = runtime_record(checkpoint.directory, reread_at=reread.at if reread else None)
    if reread:
        report.note(_reread_note(reread))
    if record.not_applied:
        names = ", ".join(f"{name} = {value!r}" for name, value in record.not_applied.items())
        report.note(f"edgellm run does not apply {names} of the checkpoint; transformers' generate does.")
    for note in (*_end_notes(record, folder), *target.runtime_notes(record)):
        report.note(note)
    return record


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
