from __future__ import annotations

import json

import pytest

from edgellm_core.runtime.chat_template import choose_template, read_chat_templates, render_chat
from edgellm_core.runtime.errors import ChatTemplateError, NoChatTemplateError, TemplateLimitError, TokenizerFileError

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou "
    "are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + "
    "message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# blocks on lines of their own, loop controls, tojson, a namespace, the generation tag, and special tokens
EVERYTHING = """
{%- set ns = namespace(count=0) -%}
{{ bos_token }}
{% for message in messages %}
    {% if message.role == 'skip' %}
        {% continue %}
    {% endif %}
    {% set ns.count = ns.count + 1 %}
    {% if message.role == 'assistant' %}
{% generation %}{{ message.content | trim }}{{ eos_token }}{% endgeneration %}
    {% else %}
{{ message | tojson(indent=2) }} <b> {{ dict(a=1) }} {{ 'tools' if tools else 'no tools' }}
    {% endif %}
{% endfor %}
{{ ns.count }} {{ strftime_now('%Y') }}{% if add_generation_prompt %} > {% endif %}
"""
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
ONE_TURN = [{"role": "user", "content": "What is the capital of France?"}]
TURNS = [
    {"role": "system", "content": "Be <brief> & kind — naïve 日本"},
    {"role": "user", "content": " Hello\n"},
    {"role": "skip", "content": ""},
    {"role": "assistant", "content": " Hi. "},
    {"role": "user", "content": 'And "now"?'},
]


@pytest.fixture(scope="module")
def transformers_tokenizer():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate(SPECIAL.values())}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unk>")), **SPECIAL)


@pytest.mark.parametrize("template", [SMOLLM2, EVERYTHING])
@pytest.mark.parametrize("messages", [ONE_TURN, TURNS])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_rendering_equals_transformers(transformers_tokenizer, template, messages, add_generation_prompt):
    expected = transformers_tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=add_generation_prompt
    )
    special = transformers_tokenizer.special_tokens_map
    assert special == SPECIAL
    actual = render_chat(template, messages, special_tokens=special, add_generation_prompt=add_generation_prompt)
    assert actual == expected
    assert len(actual) > 60


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", r"The chat template failed: roles must alternate\. "),
        ("{% for m in messages %}", r"The chat template failed: .*end of template"),
        ("{{ messages[7].content.upper() }}", r"The chat template failed: .*has no element 7"),
        ("{{ 1 / 0 }}", r"The chat template failed: division by zero"),
        ("{{ messages.append(1) }}", r"The chat template failed: .*not safely callable|.*unsafe"),
        ("{{ ''.__class__.__mro__ }}", r"The chat template failed: .*unsafe"),
        ("{{ namespace(__class__=1) }}", r"The chat template failed: .*can't store the attribute '__class__'"),
    ],
)
def test_broken_and_refusing_templates_become_one_sentence(template, message):
    with pytest.raises(ChatTemplateError, match=message):
        render_chat(template, ONE_TURN, special_tokens={})


def found(directory, config, *, tools=False):
    return choose_template(read_chat_templates(directory, config), directory, tools=tools)


@pytest.mark.parametrize(
    ("jinja_file", "config", "expected"),
    [
        ("from file", {"chat_template": "from config"}, "from file"),
        (None, {"chat_template": "from config"}, "from config"),
        (
            None,
            {"chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "main"}]},
            "main",
        ),
    ],
)
def test_template_is_found(tmp_path, jinja_file, config, expected):
    if jinja_file:
        (tmp_path / "chat_template.jinja").write_text(jinja_file)
    assert found(tmp_path, json.loads(json.dumps(config))) == expected


@pytest.mark.parametrize("config", [{}, {"chat_template": None}, {"chat_template": []}])
def test_missing_template_is_named(tmp_path, config):
    with pytest.raises(NoChatTemplateError, match=r"--chat needs a chat template, and .* has none"):
        found(tmp_path, config)


def test_unreadable_template_is_named(tmp_path):
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(TokenizerFileError, match=r"chat_template\.jinja can't be used: "):
        found(tmp_path, {})


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "more than 1,000,000 steps"),
        ("{% macro m() %}{% for a in range(9) %}{{ m() }}{% endfor %}{% endmacro %}{{ m() }}", "steps|recursion"),
        ("{{ 'a' * 10**11 }}", r"'\*' making a value of more than"),
        ("{{ 10**11 * [1] }}", r"'\*' making a value of more than"),
        ("{{ 10**(10**10) }}", r"'\*\*' making a value of more than"),
        (
            "{% set ns = namespace(x='a' * 1000) %}{% for a in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
            "'.'",
        ),
        ("{{ '%99999999999d' % 1 }}", "a format of"),
        ("{{ '%*d' % (10**10, 1) }}", "a format of"),
        ("{% for a in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", "a chat of more than"),
    ],
)
def test_what_never_ends_is_ended(template, said):
    with pytest.raises((TemplateLimitError, ChatTemplateError), match=said):
        render_chat(template, ONE_TURN, special_tokens={})


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ '**%s** %5d' % ('a', 3) }}", "**a**     3"),
        ("{{ '=' * 80 }}", "=" * 80),
        ("{{ 2 ** 10 + [1] | length }}", "1025"),
        ("{% for a in range(1000) %}{{ a % 2 }}{% endfor %}", "01" * 500),
    ],
)
def test_what_templates_really_do_is_done(template, text):
    assert render_chat(template, ONE_TURN, special_tokens={}) == text
