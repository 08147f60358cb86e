"""Answers of a twin across every length where behaviour changes, by ``edgellm run``'s own code and by ``generate``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from edgellm_core.bundle.proof import AnswersRecord, RuntimeRecord
from edgellm_core.runtime.session import DecoderSession
from edgellm_core.verification.generation import NEW_TOKENS, compare_generation
from edgellm_core.verification.twin.compare import TOLERANCE
from edgellm_core.verification.twin.lengths import distinct_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedModel

    from edgellm_core.verification.twin.lengths import Edge

BEFORE: Final = 4
"""Tokens between the end of a prompt and the length that its answer passes."""

NEVER_TWICE: Final = {"no_repeat_ngram_size": 1}
"""Settings of an answer without a token that was there before; see :func:`distinct_tokens`."""

REFERENCE: Final = "the twin, answers that pass every length where behaviour changes"


def compare_answers(
    graph: Path,
    model: PreTrainedModel,
    edges: Sequence[Edge],
    *,
    reread_at: int | None,
    longest: int,
    scratch: Path,
) -> AnswersRecord:
    """Compare a twin's answers.

    Args:
        graph: the twin's graph.
        model: its original.
        edges: lengths where behaviour changes.
        reread_at: number of tokens at which everything is read again; None for never.
        longest: most tokens that graph and original read.
        scratch: folder to create.

    Raises:
        GenerationDiffersError: an answer differs.
        OriginalGenerationError: the original's ``generate`` does not work.
        EdgellmError: the graph can't be run.
    """
    scratch.mkdir()
    vocabulary = int(model.config.get_text_config().vocab_size)
    settings = NEVER_TWICE if longest < vocabulary else {}
    (scratch / "config.json").write_text("{}", encoding="utf-8")  # no stop tokens: an answer has to pass the lengths
    (scratch / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    room = max(1, longest - NEW_TOKENS)
    lengths = sorted({min(room, max(1, length - BEFORE)) for length in (room, *(edge.length for edge in edges))})
    found = compare_generation(
        DecoderSession(graph, threads=1),
        model,
        RuntimeRecord(reread_at=reread_at, stop_tokens=(), settings=settings, not_applied={}),
        [distinct_tokens(length, vocabulary=vocabulary, seed=5) for length in lengths],
        folder=scratch,
        tolerance=TOLERANCE,
        max_new_tokens=min(NEW_TOKENS, longest - max(lengths)),
    )
    return AnswersRecord(
        reference=REFERENCE,
        prompts=found.prompts,
        tokens=found.tokens,
        max_rel_err=found.max_rel_err,
        ties=found.ties,
    )
