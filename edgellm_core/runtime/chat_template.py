"""Chat templates, rendered as transformers renders them but without importing it.

Source: ``transformers.utils.chat_template_utils._compile_jinja_template``, version 5.23. Templates come with models, so
they run in Jinja's immutable sandbox.
"""

from __future__ import annotations

import json
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NoReturn

from edgellm_core.errors import one_line
from edgellm_core.runtime.errors import ChatTemplateError, NoChatTemplateError, TemplateLimitError, TokenizerFileError
from edgellm_core.runtime.template_limits import BOUNDED, check_operation, limited_steps
from edgellm_core.untrusted import CorruptJsonError, FileLimitError, NotAFileError, UnreadableFileError, read_text
from edgellm_core.untrusted.limits import JSON_FILE, TEMPLATE_VALUE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from jinja2 import Template
    from jinja2.parser import Parser
    from jinja2.runtime import Context
    from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATE_FILE: Final = "chat_template.jinja"
FURTHER_TEMPLATES: Final = "additional_chat_templates"
"""Folder of templates with other names than ``default``, for example ``tool_use.jinja``."""

DEFAULT: Final = "default"
TOOL_USE: Final = "tool_use"
REASONING: Final = ("reasoning_content", "thinking", "reasoning")
"""Names that messages give their reasoning under; the first is the one that most templates read."""


def read_chat_templates(directory: Path, tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    """Return the templates by name: those of files, else those of tokenizer_config.json; empty where there are none.

    Args:
        directory: folder of the tokenizer files: ``chat_template.jinja``, and further ones in
            ``additional_chat_templates``.
        tokenizer_config: contents of tokenizer_config.json; its ``chat_template`` is one template, a mapping from names
            to templates, or a list of ``{"name": …, "template": …}``.

    Raises:
        TokenizerFileError: a file can't be read.
    """
    paths = {path.stem: path for path in sorted((directory / FURTHER_TEMPLATES).glob("*.jinja"))}
    if (directory / TEMPLATE_FILE).is_file():
        paths[DEFAULT] = directory / TEMPLATE_FILE
    if paths:
        return {name: _read(path) for name, path in paths.items()}
    stated = tokenizer_config.get("chat_template")
    if isinstance(stated, list):
        stated = {entry.get("name"): entry.get("template") for entry in stated if isinstance(entry, dict)}
    if isinstance(stated, str):
        stated = {DEFAULT: stated}
    named = stated if isinstance(stated, dict) else {}
    return {name: text for name, text in named.items() if isinstance(name, str) and isinstance(text, str) and text}


def _read(path: Path) -> str:
    try:
        return read_text(path, JSON_FILE)
    except (CorruptJsonError, FileLimitError, NotAFileError, UnreadableFileError) as error:
        raise TokenizerFileError(path, error.problem) from error


def choose_template(templates: Mapping[str, str], directory: Path, *, tools: bool) -> str:
    """Return the template of a conversation: ``tool_use`` where tools are given and it exists, else ``default``.

    Args:
        templates: by name.
        directory: where they were looked for, for the message.
        tools: tools are given.

    Raises:
        NoChatTemplateError: there is none.
    """
    name = TOOL_USE if tools and TOOL_USE in templates else DEFAULT
    if not templates.get(name):
        raise NoChatTemplateError(directory)
    return templates[name]


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    special_tokens: Mapping[str, str],
    add_generation_prompt: bool = True,
    **variables: Any,
) -> str:
    """Return the text of a conversation.

    Args:
        template: Jinja source.
        messages: ``{"role": …, "content": …}`` in order; keys without a value (None) are left out.
        special_tokens: ``bos_token``, ``eos_token`` and so on → text.
        add_generation_prompt: end with the opening of the assistant's answer.
        variables: what else the template reads: ``tools`` and ``documents`` (lists of JSON objects), or switches of
            its own, for example ``enable_thinking``.

    Raises:
        ChatTemplateError: the template is broken, or refuses these messages.
        TemplateLimitError: it takes more time or memory than any real one.
    """
    import jinja2

    given = {"tools": None, "documents": None, **special_tokens, **variables}
    given |= {
        "messages": [_with_reasoning(message) for message in messages],
        "add_generation_prompt": add_generation_prompt,
    }
    try:
        compiled = _compiled(template)
        with limited_steps():
            return _joined(compiled.generate(given))
    except MemoryError as error:
        raise TemplateLimitError("more memory than there is") from error
    except (
        jinja2.TemplateError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        # the code of a template can fail in any of these ways
        raise ChatTemplateError(one_line(error)) from error


def _joined(pieces: Iterable[str]) -> str:
    """Return the text that a template writes piece by piece, up to a limit."""
    parts: list[str] = []
    left = TEMPLATE_VALUE.most
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            msg = f"a chat of more than {TEMPLATE_VALUE.shown()}"
            raise TemplateLimitError(msg)
        parts.append(piece)
    return "".join(parts)


@lru_cache(maxsize=8)
def _compiled(template: str) -> Template:
    return _environment().from_string(template)


def _with_reasoning(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message without empty keys, its reasoning under each name that templates read."""
    stated = {key: value for key, value in message.items() if value is not None}
    reasoning = next((stated[key] for key in REASONING if key in stated), None)
    return stated if reasoning is None else {"thinking": reasoning, **stated, "reasoning_content": reasoning}


def _environment() -> ImmutableSandboxedEnvironment:
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class BoundedEnvironment(ImmutableSandboxedEnvironment):
        intercepted_binops = BOUNDED

        def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
            check_operation(operator, left, right)
            return super().call_binop(context, operator, left, right)

    environment = BoundedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_generation_tag(), jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(
        raise_exception=_raise_exception, strftime_now=_strftime_now, dict=_TemplateDict(), namespace=_namespace()
    )
    return environment


def _generation_tag() -> type:
    """Return an extension for ``{% generation %}…{% endgeneration %}``, which marks answers for training only."""
    from jinja2 import ext, nodes

    class GenerationTag(ext.Extension):
        tags = {"generation"}  # noqa: RUF012  # jinja2 declares it so

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            # a call block, so that variables set inside stay inside, as in transformers
            return nodes.CallBlock(self.call_method("unchanged"), [], [], body).set_lineno(line)

        def unchanged(self, caller: Callable[[], str]) -> str:
            return caller()

    return GenerationTag


class _TemplateDict:
    """``dict`` as templates may use it: without attributes that lead out of the sandbox."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


def _namespace() -> type:
    """Return Jinja's ``namespace`` without attributes that begin with an underscore."""
    from jinja2.exceptions import SecurityError
    from jinja2.utils import Namespace

    def check(name: object) -> None:
        if isinstance(name, str) and name.startswith("_"):
            msg = f"a chat template can't store the attribute {name!r} on a namespace"
            raise SecurityError(msg)

    class TemplateNamespace(Namespace):
        def __init__(*args: Any, **kwargs: Any) -> None:  # so that a template may pass ``self=…``
            attributes = dict(*args[1:], **kwargs)
            for name in attributes:
                check(name)
            Namespace.__init__(args[0], attributes)

        def __setitem__(self, name: str, value: Any) -> None:
            check(name)
            Namespace.__setitem__(self, name, value)

    return TemplateNamespace


def _raise_exception(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)  # noqa: DTZ005  # without a time zone, as transformers does


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # the signature that templates call
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Replace Jinja's filter, which escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
