"""The stage ``tokenizer``: writes tokenizer and chat templates into the bundle, compared with transformers' own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgellm_core.pipeline.fingerprint import code_digest, digest_of, installed_versions

if TYPE_CHECKING:
    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.contract import ModelFamily, Target
    from edgellm_core.events import Reporter
    from edgellm_core.pipeline.workspace import StageRunner, Workspace


def tokenizer_stage(
    checkpoint: Checkpoint,
    family: ModelFamily,
    target: Target,
    *,
    compared: bool,
    workspace: Workspace,
    runner: StageRunner,
) -> dict[str, Any]:
    """Write the tokenizer before anything that takes long; return the fields of the manifest's record.

    Raises:
        UserError: it can't be read or differs; one class per cause in ``edgellm_core.tokenization.errors``.
    """
    from edgellm_core.tokenization.writing import write_tokenizer

    def body(report: Reporter) -> dict[str, Any]:
        record = write_tokenizer(checkpoint, family, workspace.llm, report, compared=compared)
        target.adapt_tokenizer(workspace.llm)
        return record.model_dump(mode="json")

    versions = installed_versions(("transformers", "tokenizers", "sentencepiece"))
    asked = [family.chat_template(), target.name, compared, versions, code_digest()]
    fingerprint = digest_of(checkpoint.fingerprint(), *asked)
    fields: dict[str, Any] = runner.resume("tokenizer", workspace, fingerprint, body, reads_weights=False)
    return fields
