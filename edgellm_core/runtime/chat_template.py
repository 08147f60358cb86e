"""Chat templates, rendered as transformers renders them but without importing it.

Source: ``transformers.utils.chat_template_utils._compile_jinja_template``, version 5.23. Templates come with models, so
they run in Jinja's immutable sandbox.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from edgellm_core.errors import one_line
from edgellm_core.runtime.errors import ChatTemplateError, NoChatTemplateError, TokenizerFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment


def read_chat_template(directory: Path, tokenizer_config: Mapping[str, Any]) -> str:
    """Return the template: ``chat_template.jinja``, else the one of tokenizer_config.json.

    Args:
        directory: folder of the tokenizer files.
        tokenizer_config: contents of tokenizer_config.json; ``chat_template`` is a string or a list of named templates,
            of which ``default`` counts.

    Raises:
        NoChatTemplateError: there is none.
        TokenizerFileError: the file can't be read.
    """
    path = directory / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TokenizerFileError(path, str(error)) from error
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):
        template = {entry.get("name"): entry.get("template") for entry in template}.get("default")
    if not isinstance(template, str) or not template:
        raise NoChatTemplateError(directory)
    return template


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    special_tokens: Mapping[str, str],
    add_generation_prompt: bool = True,
) -> str:
    """Return the text of a conversation.

    Args:
        template: Jinja source.
        messages: ``{"role": …, "content": …}`` in order.
        special_tokens: ``bos_token``, ``eos_token`` and so on → text.
        add_generation_prompt: end with the opening of the assistant's answer.

    Raises:
        ChatTemplateError: the template is broken, or refuses these messages.
    """
    import jinja2

    try:
        compiled = _environment().from_string(template)
        return compiled.render(
            messages=[dict(message) for message in messages],
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **special_tokens,
        )
    except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # the code of a template can fail in any of these ways
        raise ChatTemplateError(one_line(error)) from error


def _environment() -> ImmutableSandboxedEnvironment:
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
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
    return datetime.now().astimezone().strftime(pattern)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # the signature that templates call
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Replace Jinja's filter, which escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
