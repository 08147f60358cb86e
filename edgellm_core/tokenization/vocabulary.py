"""Where tokenizer and model have to fit together: ids that have an embedding, and tokens that end an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgellm_core.checkpoint.dimensions import read_dimensions
from edgellm_core.runtime.errors import ChatTemplateError, NoChatTemplateError

if TYPE_CHECKING:
    from collections.abc import Collection

    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.events import Reporter
    from edgellm_core.runtime.tokenizer import BundleTokenizer

NAMED: Final = 5
"""Most tokens that a note names."""

ANSWER: Final = "The answer ends here"


def beyond_embedding(tokenizer: BundleTokenizer, checkpoint: Checkpoint, report: Reporter) -> int:
    """Return the number of tokens whose ids the embedding has no row for, and name some of them."""
    rows = read_dimensions(checkpoint.config).vocab_size
    if rows is None:
        return 0
    vocabulary: dict[str, int] = tokenizer.backend.get_vocab()
    beyond = sorted((identifier, token) for token, identifier in vocabulary.items() if identifier >= rows)
    if not beyond:
        return 0
    shown = ", ".join(repr(token) for _, token in beyond[:NAMED]) + (", …" if len(beyond) > NAMED else "")
    ordinary = sum(identifier not in tokenizer.added_tokens for identifier, _ in beyond)
    doubt = f" {ordinary} of them are no added tokens: is it the tokenizer of another model?" if ordinary else ""
    report.note(
        f"The tokenizer has {len(beyond)} tokens without a row of the embedding, which has {rows}: {shown}. A prompt "
        f"with one is refused.{doubt}"
    )
    return len(beyond)


def tell_turn_end(tokenizer: BundleTokenizer, stops: Collection[int], report: Reporter) -> None:
    """Say where a chat template ends answers with a token that ends no generation; the end token is said elsewhere."""
    end = turn_end(tokenizer)
    if end is not None and end not in (*stops, tokenizer.eos_id):
        text = tokenizer.decode([end], skip_special_tokens=False)
        report.note(
            f"The chat template ends answers with {text!r}, which is no stop token: generation goes on past it, as "
            f"transformers' generate does. Add {end} to eos_token_id of generation_config.json."
        )


def tell_failing_template(tokenizer: BundleTokenizer, report: Reporter) -> None:
    """Say where a chat template can't render one turn of a user; transformers was found to refuse it too."""
    try:
        tokenizer.render_chat([{"role": "user", "content": "Hello"}])
    except NoChatTemplateError:
        return
    except ChatTemplateError as error:
        report.note(
            f"One user's turn can't be rendered, here or by transformers: {error.reason.rstrip('.')}. edgellm run "
            "--chat refuses it."
        )


def turn_end(tokenizer: BundleTokenizer) -> int | None:
    """Return the added token that a chat template writes after an answer; None where it writes none."""
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": ANSWER}]
    try:
        text = tokenizer.render_chat(turns, add_generation_prompt=False)
    except (ChatTemplateError, NoChatTemplateError):
        return None
    _, _, after = text.rpartition(ANSWER)
    added = tokenizer.added_tokens
    return next((token for token in tokenizer.encode(after, add_special_tokens=False) if token in added), None)
