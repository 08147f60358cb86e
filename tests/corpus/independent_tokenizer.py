"""The tokenizer and chat template of a bundle against transformers' own, by none of the code that the build has.

Token ids come from the files of the bundle through ``tokenizers`` and ``jinja`` as ``edgellm run`` uses them; what they
should be comes from ``AutoTokenizer`` of the original.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import AutoTokenizer
from transformers.utils import logging

from edgellm_core.runtime.tokenizer import BundleTokenizer

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = (
    "Hello world! It's 12:34, isn't it?", "Grüße, 你好, नमस्ते, שלום, 🧑‍🚀", "if a:\n\treturn  [1,  2]\n", "", "  x  ",
    "\x00\u200d", "antidisestablishmentarianism" * 9,
)  # fmt: skip
CHATS: tuple[tuple[list[dict[str, Any]], dict[str, Any]], ...] = (
    ([{"role": "user", "content": "Hi"}], {}),
    ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße"}], {}),
    ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": " c "}], {}),
    ([{"role": "user", "content": "Hi"}], {"tools": [{"type": "function", "function": {"name": "f"}}]}),
)


def difference(llm: Path, original: Path) -> str:
    """Return what differs; empty where nothing does or there is no tokenizer on either side."""
    if not (llm / "tokenizer.json").is_file() or not list(original.glob("*token*")):
        return ""  # the originals of GGUF files are weights alone
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        mine, theirs = BundleTokenizer(llm), AutoTokenizer.from_pretrained(original)
        found = [*_texts(mine, theirs), *_chats(mine, theirs)]
    finally:
        logging.set_verbosity(level)
    return found[0] if found else ""


def _texts(mine: BundleTokenizer, theirs: Any) -> list[str]:
    special = [token.content for token in theirs.added_tokens_decoder.values()]
    texts = [*TEXTS, *(f"a {token}b {token} {token}" for token in [*special, *theirs.all_special_tokens])]
    found = []
    for text in texts:
        for edges in (True, False):
            ids = theirs.encode(text, add_special_tokens=edges)
            stream = mine.stream()
            streamed = "".join([*map(stream.push, ids), stream.flush()])
            decoded = theirs.decode(ids, skip_special_tokens=True)
            if mine.encode(text, add_special_tokens=edges) != ids:
                found.append(f"ids of {text!r}")
            if not mine.decode(ids) == decoded == streamed:
                found.append(f"text of {text!r}")
    return found


def _chats(mine: BundleTokenizer, theirs: Any) -> list[str]:
    if not theirs.chat_template:
        return []
    found = []
    for messages, more in CHATS:
        for opened in (True, False):
            wanted = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=opened, **more)
            if mine.render_chat(messages, add_generation_prompt=opened, **more) != wanted:
                found.append(f"chat {messages}")
    return found
