"""What is read by both tokenizers: texts in several scripts, texts around each added token, and conversations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

TEXTS: Final = (
    "The capital of France is Paris, isn't it? We've asked; they'll say \"yes\" .",
    "Übung macht den Meister – façade, naïve, Ångström, œuvre, İstanbul, ﬁne ½ Ⅷ e\N{COMBINING ACUTE ACCENT}",
    "Быть или не быть, Ελληνικά, Հայերեն, ქართული",
    "東京は日本の首都です。人口は約1400万人。你好，世界！안녕하세요 ｱｲｳ ＡＢＣ",
    "مرحبا بالعالم، ١٢٣ שָׁלוֹם עולם",
    "नमस्ते दुनिया। ক্ষমতা தமிழ் ภาษาไทย",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇫🇷 ☕️ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \N{LINEAR B SYLLABLE B008 A}",
    "def f(x):\n\tif x < 2:\n\t\treturn x  # done\r\n    return f(x - 1) + f(x - 2)\n\n\n",
    '<html>&amp; {"a": [1, 2.5e-3, null]} $x^2$ C:\\path http://example.com/?q=%20#top foo_bar fooBar @user',
    "0 1 12 123 1234 12345 1,234,567.89 -3.14 0x1F 2026-11-30 3 × 7 = 21 ½ ²",
    " leading, trailing ", "  two   three    four\t\ttabs\n \n  \n", " ", "\n", "\t",
    "\x00\x01\x07\x1b\x7f\x85\xa0\u200b\u200d\u2028\ufeff\ufffd",
    "",
    "a", "▁▁ under ▁score Ġ Ċ ## <0x0A>",
    "x" * 300, "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z a b c d e f g h i j k l m n o p q r s t u v w x y z",
    "hello world, the model runs on a small device!",
)  # fmt: skip
"""Latin with diacritics, Cyrillic and Greek, CJK, right to left, Indic, emoji that are joined, code, numbers, white
space, control characters, nothing, marks that tokenizers use themselves, long words, letters."""

TOOLS: Final = (
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Say the weather of a <place> & time.",
            "parameters": {
                "type": "object",
                "properties": {
                    "place": {"type": "string", "description": "Ort, z. B. Köln"},
                    "days": {"type": "integer"},
                },
                "required": ["place"],
            },
            "return": {"type": "string"},
        },
    },
)
DOCUMENTS: Final = ({"title": 'On "quotes"', "text": "First line.\nSecond – line."},)

ALONE: Final = 128
"""Added tokens at both ends of the list that get texts of their own; those between stand 64 together in one."""

TOGETHER: Final = 64


class Conversation(NamedTuple):
    """Messages of a chat, and what else its template is given."""

    messages: Sequence[Mapping[str, Any]]
    variables: Mapping[str, Any] = {}


_USER: Final = {"role": "user", "content": "What is the capital of France?"}
_ANSWER: Final = {"role": "assistant", "content": " Paris.\n"}
_SYSTEM: Final = {"role": "system", "content": 'Be <brief> & "kind" – 日本語 👍🏽\n'}
_CALL: Final = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "call00001",
            "type": "function",
            "function": {"name": "weather", "arguments": {"place": "Köln", "days": 2}},
        }
    ],
}
_RESULT: Final = {"role": "tool", "name": "weather", "tool_call_id": "call00001", "content": "12 °C"}

CONVERSATIONS: Final = (
    Conversation((_USER,)),
    Conversation((_SYSTEM, _USER)),
    Conversation((_USER, _ANSWER, {"role": "user", "content": "  And of Österreich?\n\n"})),
    Conversation((_SYSTEM, _USER, _ANSWER, {"role": "user", "content": "¿Y 東京? 👩‍👩‍👧"}, _ANSWER)),
    Conversation((_SYSTEM,)),
    Conversation(({"role": "user", "content": ""},)),
    Conversation(({"role": "user", "content": [{"type": "text", "text": "Hello."}]},)),
    Conversation((_USER, {**_ANSWER, "reasoning_content": "France has one."}, _USER)),
    Conversation((_USER, {**_ANSWER, "thinking": "Hm."}, {"role": "user", "content": None, "name": "x"})),
    Conversation((_USER,), {"tools": TOOLS}),
    Conversation((_SYSTEM, _USER, _CALL, _RESULT), {"tools": TOOLS}),
    Conversation((_USER, _CALL, _RESULT, _ANSWER, _USER)),
    Conversation((_USER,), {"documents": DOCUMENTS}),
    Conversation((_USER,), {"enable_thinking": False}),
    Conversation((_USER,), {"enable_thinking": True, "tools": TOOLS}),
)
"""One turn, several, with and without system, empty and missing content, reasoning, tools, their calls and answers,
documents, and the switch that reasoning models have in common. Templates refuse some; then both sides have to."""


def texts_around(tokens: Sequence[str]) -> Iterator[str]:
    """Yield texts with each token alone, at the start, at the end, inside, beside spaces and letters, twice, upper."""
    middle = tokens[ALONE:-ALONE]
    for token in tokens if not middle else (*tokens[:ALONE], *tokens[-ALONE:]):
        yield token
        yield f" {token} "
        yield _around(token)
    for start in range(0, len(middle), TOGETHER):
        yield " | ".join(_around(token) for token in middle[start : start + TOGETHER])


def _around(token: str) -> str:
    changed = f"x{token}y {token.upper()} {token[:-1]}"
    return f"{token}Hello {token} world{token}\n{token}\t{token}{token}, {changed} end {token}"


def conversation_of(tokens: Sequence[str]) -> Conversation:
    """Return a conversation whose messages hold these tokens."""
    text = " ".join(tokens)
    return Conversation(({"role": "system", "content": text}, {"role": "user", "content": f"{text} hello {text}"}))
