"""What the runtime of TensorRT-Edge-LLM makes of the files beside a graph, against the original."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edgellm_core.runtime.errors import RuntimeTokenizerError
from edgellm_core.runtime.paged.rope import lacking_width
from edgellm_core.runtime.paged.tokenizer import RuntimeTokenizer
from edgellm_core.untrusted import read_json_object
from edgellm_core.untrusted.limits import TOKENIZER
from edgellm_core.verification.prompts import TEXTS
from edgellm_core.verification.rope_tables import require_equal_tables

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.contract import ModelFamily

MORE_TEXTS: Final = (
    " It's 12,345 words;  they'll be split...\n\n\tIsn't IT?",
    "naïve—“Straße”: мир, 世界, مرحبا, नमस्ते, 👩‍💻",
)

ADDED_TEXTS: Final = 16
"""Added tokens that are tried, the first and the last ones."""


def check_files(folder: Path, checkpoint: Checkpoint, family: ModelFamily) -> list[str]:
    """Compare the RoPE table and the tokens of the runtime with the original's.

    Args:
        folder: where the files lie.
        checkpoint: the original.
        family: its family.

    Returns:
        What a user has to know.

    Raises:
        RopeTablesDifferError: the runtime would compute other angles.
        RopeConfigError: it would compute none.
    """
    return [*require_equal_tables(folder, checkpoint, family), *device_notes(folder), *tokenizer_notes(folder)]


def device_notes(folder: Path) -> list[str]:
    """Say why the runtime will refuse to load the bundle on any device: a table that it has no kernel for."""
    reason = lacking_width(read_json_object(folder / "config.json"))
    return [f"TensorRT-Edge-LLM will not load this model: {reason}."] if reason else []


def tokenizer_notes(folder: Path) -> list[str]:
    """Say where the runtime's own tokenizer reads text otherwise than the bundle's."""
    path, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if not path.is_file():
        return []
    from tokenizers import Tokenizer

    stated = read_json_object(path, TOKENIZER)
    stated_settings = read_json_object(settings) if settings.is_file() else {}
    texts = probe_texts(stated)
    original = Tokenizer.from_file(str(path))
    try:
        runtime = RuntimeTokenizer(stated, stated_settings)
    except RuntimeTokenizerError as error:
        return [f"TensorRT-Edge-LLM does not load this tokenizer: {error.reason}. Pass token ids to it."]
    different = [text for text in texts if _ids(runtime, text) != original.encode(text, add_special_tokens=False).ids]
    return [_note(runtime, different[0], len(different), len(texts))] if different else []


def probe_texts(stated: Mapping[str, Any]) -> list[str]:
    """Return texts in several scripts, and one with each of the first and last added tokens."""
    added = [str(entry["content"]) for entry in stated.get("added_tokens") or []]
    half = ADDED_TEXTS // 2
    chosen = added if len(added) <= ADDED_TEXTS else [*added[:half], *added[-half:]]
    return [*TEXTS, *MORE_TEXTS, *(f"one {token} two{token}three" for token in chosen)]


def _ids(runtime: RuntimeTokenizer, text: str) -> list[int] | None:
    try:
        return runtime.encode(text)
    except RuntimeTokenizerError:
        return None


def _note(runtime: RuntimeTokenizer, text: str, different: int, tried: int) -> str:
    found = _ids(runtime, text)
    how = "can't read" if found is None else f"makes {len(found)} other tokens of"
    shown = text if len(text) <= 40 else f"{text[:39]}…"
    return (
        f"TensorRT-Edge-LLM has a tokenizer of its own, which {how} {shown!r} ({different} of {tried} texts differ): "
        "of tokenizer.json it knows byte-pair models, Split by Regex and Replace by String. Pass it token ids that the "
        "checkpoint's tokenizer made."
    )
