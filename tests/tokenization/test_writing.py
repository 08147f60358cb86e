"""Tokenizers as people have them: what transformers reads is what the bundle has, or the build is refused."""

from __future__ import annotations

import json

import pytest
from tokenizers import AddedToken, models
from transformers import AutoTokenizer

from edgellm_core.checkpoint.errors import LfsPointerError, VocabularyMissingError
from edgellm_core.runtime.tokenizer import BundleTokenizer
from edgellm_core.tokenization.errors import EmptyTokenizerError, OwnTokenizerCodeError, TokenizerUnreadableError
from tests.tokenization.kinds import CHATML, KINDS, TEXTS, added, byte_level_bpe, write, write_sentencepiece

CHAT = [{"role": "user", "content": "hello <|think|>"}, {"role": "assistant", "content": "world"}]


def assert_equal(llm, directory):
    """Compare by none of the code that decides."""
    mine, theirs = BundleTokenizer(llm), AutoTokenizer.from_pretrained(directory)
    for text in (*TEXTS[:5], "a <|think|> b</s>", " <s>x", ""):
        for special in (True, False):
            ids = theirs.encode(text, add_special_tokens=special)
            assert mine.encode(text, add_special_tokens=special) == ids
            assert mine.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    if theirs.chat_template:
        assert mine.render_chat(CHAT) == theirs.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert mine.special_tokens == theirs.special_tokens_map


def edit(directory, name="tokenizer_config.json", *, remove=(), **fields):
    path = directory / name
    stated = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({key: value for key, value in {**stated, **fields}.items() if key not in remove}))


@pytest.mark.parametrize("kind", KINDS)
def test_complete_tokenizers_are_copied(source, written, kind):
    directory = source(kind)
    llm, record, said = written(directory)
    assert (record.status, record.reference, record.written) == ("equal", "TokenizersBackend", None)
    assert record.texts > 30
    assert record.chats > 10
    assert (llm / "tokenizer.json").read_bytes() == (directory / "tokenizer.json").read_bytes()
    assert [text for text in said if "anew" in text] == []
    assert_equal(llm, directory)


def special_tokens_map(directory):
    edit(directory, remove=("bos_token", "eos_token", "unk_token"))
    eos = {"content": "<|im_end|>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    edit(directory, "special_tokens_map.json", bos_token="<|im_start|>", eos_token=eos)


def added_tokens_decoder(directory):
    edit(directory, added_tokens_decoder={"900": added("<|think|>", special=True), "901": added("<|/think|>")})


def added_tokens_json(directory):
    edit(directory, "added_tokens.json", **{"<|think|>": 400, "<|/think|>": 401})


def additional_special_tokens(directory):
    edit(directory, additional_special_tokens=["<|think|>", "<|tool|>"])


def extra_special_tokens(directory):
    edit(directory, extra_special_tokens={"image_token": "<|think|>", "boi": "<|boi|>"})


def other_flags(directory):
    flags = added("<|im_end|>", lstrip=True, rstrip=True, special=True)
    edit(directory, added_tokens_decoder={"4": flags})


def class_defaults(directory):
    edit(directory, tokenizer_class="GPT2Tokenizer", remove=("bos_token", "eos_token", "unk_token"))


def rebuilt_by_its_class(directory):
    edit(directory, tokenizer_class="Qwen2Tokenizer")


MENDED = [
    special_tokens_map, added_tokens_decoder, added_tokens_json, additional_special_tokens, extra_special_tokens,
    other_flags, class_defaults, rebuilt_by_its_class,
]  # fmt: skip


@pytest.mark.parametrize("change", MENDED)
def test_what_other_files_say_is_in_the_bundle(source, written, change):
    directory = source("byte_level_bpe")
    change(directory)
    llm, record, said = written(directory)
    assert_equal(llm, directory)
    if record.status == "written":
        assert record.written in " ".join(said)
        assert {path.name for path in llm.iterdir()} == {
            "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
        }  # fmt: skip


@pytest.mark.parametrize("change", [special_tokens_map, added_tokens_decoder, added_tokens_json])
def test_without_the_comparison_they_are_still_completed(source, written, change):
    directory = source("byte_level_bpe")
    change(directory)
    llm, record, _ = written(directory, compared=False)
    assert record.status == "skipped"
    assert "special_tokens_map.json" in record.written or "<|think|>" in record.written
    assert_equal(llm, directory)


@pytest.mark.parametrize("change", [special_tokens_map, added_tokens_decoder, added_tokens_json, class_defaults])
def test_it_is_said_why_a_tokenizer_was_written_anew(source, written, change):
    directory = source("byte_level_bpe")
    change(directory)
    _, record, said = written(directory)
    assert record.status == "written"
    assert any(text.startswith("The tokenizer is written anew, as transformers saves it: ") for text in said)


def vocab_and_merges(directory):
    byte_level_bpe().model.save(str(directory))
    write(directory, None, tokenizer_class="GPT2Tokenizer")


def wordpiece_vocabulary(directory):
    KINDS["word_piece"]().model.save(str(directory))
    write(directory, None, tokenizer_class="BertTokenizer", unk_token="<unk>")


def sentencepiece_bpe(directory):
    write_sentencepiece(directory)
    write(directory, None, tokenizer_class="LlamaTokenizer")


def sentencepiece_unigram(directory):
    write_sentencepiece(directory, kind="unigram")
    write(directory, None, tokenizer_class="LlamaTokenizer")


def sentencepiece_without_settings(directory):
    write_sentencepiece(directory)


@pytest.mark.parametrize(
    "make",
    [vocab_and_merges, wordpiece_vocabulary, sentencepiece_bpe, sentencepiece_unigram, sentencepiece_without_settings],
)
@pytest.mark.parametrize("compared", [True, False])
def test_older_forms_are_converted(tmp_path, written, make, compared):
    directory = tmp_path / "source"
    directory.mkdir()
    make(directory)
    llm, record, _ = written(directory, compared=compared)
    assert record.status == ("written" if compared else "skipped")
    assert record.written == "there is no tokenizer.json that can be read"
    assert_equal(llm, directory)


def templates_as_mapping(directory):
    edit(directory, chat_template={"default": CHATML, "tool_use": "tools {{ tools | length }}"})


def templates_as_list(directory):
    edit(directory, chat_template=[{"name": "default", "template": CHATML}, {"name": "rag", "template": "x"}])


def templates_as_files(directory):
    (directory / "chat_template.jinja").write_text(CHATML)
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates" / "tool_use.jinja").write_text("tools {{ tools | length }}")


def file_beside_another_in_the_settings(directory):
    (directory / "chat_template.jinja").write_text("{{ messages[0].content }}{{ eos_token }}")


@pytest.mark.parametrize(
    "change", [templates_as_mapping, templates_as_list, templates_as_files, file_beside_another_in_the_settings]
)
def test_every_form_of_chat_templates_is_rendered(source, written, change):
    directory = source("byte_level_bpe")
    change(directory)
    llm, record, _ = written(directory)
    assert record.status == "equal"
    assert_equal(llm, directory)
    theirs, mine = AutoTokenizer.from_pretrained(directory), BundleTokenizer(llm)
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    wanted = theirs.apply_chat_template(CHAT, tools=tools, tokenize=False, add_generation_prompt=True)
    assert mine.render_chat(CHAT, tools=tools) == wanted


def test_a_template_of_the_family_stands_in(source, written):
    directory = source("byte_level_bpe")
    edit(directory, remove=("chat_template",))
    llm, record, said = written(directory, template="{{ messages[0].content }}!")
    assert record.status == "equal"
    assert BundleTokenizer(llm).render_chat(CHAT) == "hello <|think|>!"
    assert any("takes that of family 'generic'" in text for text in said)


def test_no_tokenizer_is_said(tmp_path, written):
    directory = tmp_path / "source"
    directory.mkdir()
    _, record, said = written(directory)
    assert record.status == "none"
    assert said == ["The checkpoint has no tokenizer; the bundle runs on token ids only."]


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "tokenizer_config.json"])
def test_a_pointer_of_git_lfs_is_refused(source, written, name):
    directory = source("byte_level_bpe")
    (directory / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(LfsPointerError, match=rf"{name}' must hold a tokenizer; it is a pointer of Git LFS\. Run git"):
        written(directory)


@pytest.mark.parametrize("tokenizer_class", ["LlamaTokenizer", "GPT2Tokenizer", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize("compared", [True, False])
def test_settings_without_tokens_are_refused(tmp_path, written, tokenizer_class, compared):
    directory = write(tmp_path / "source", None, tokenizer_class=tokenizer_class)
    with pytest.raises(VocabularyMissingError, match=r"it has only tokenizer_config\.json\. Put tokenizer\.json there"):
        written(directory, compared=compared)


def test_a_tokenizer_that_knows_no_text_is_refused(tmp_path, written):
    from tokenizers import Tokenizer

    empty = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>"))
    directory = write(tmp_path / "source", empty)
    with pytest.raises(EmptyTokenizerError, match=r"TokenizersBackend, knows none\. Put the tokenizer\.json"):
        written(directory)


BROKEN = [
    ("tokenizer.json", "{"), ("tokenizer.json", "{}"), ("tokenizer.json", "[]"), ("tokenizer.json", ""),
    ("tokenizer.json", '{"model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}, "added_tokens": []}'),
    ("tokenizer_config.json", "{"), ("tokenizer_config.json", "[1]"), ("special_tokens_map.json", "[1]"),
    ("added_tokens.json", "7"),
    ("tokenizer.json", json.dumps({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}})),  # panics
]  # fmt: skip
BROKEN_FOR_TRANSFORMERS = [
    ("tokenizer_config.json", '{"tokenizer_class": 7}'), ("tokenizer_config.json", '{"bos_token": 5}'),
    ("tokenizer_config.json", '{"added_tokens_decoder": {"x": 1}}'),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "compared"),
    [*((*broken, True) for broken in (*BROKEN, *BROKEN_FOR_TRANSFORMERS)), *((*broken, False) for broken in BROKEN)],
)
def test_unreadable_files_become_one_sentence(source, written, name, content, compared):
    directory = source("byte_level_bpe")
    (directory / name).write_text(content)
    with pytest.raises(TokenizerUnreadableError, match=r"^transformers must be able to read .* it can't: [^\n]*$"):
        written(directory, compared=compared)


def test_own_code_is_refused_unless_trusted(source, written):
    directory = source("byte_level_bpe")
    edit(directory, tokenizer_class="Own", auto_map={"AutoTokenizer": ["tokenization_own.Own", None]})
    with pytest.raises(OwnTokenizerCodeError, match=r"'tokenization_own\.Own', which is not trusted.*--trust-remote-c"):
        written(directory)


def test_tokens_without_an_embedding_are_named(source, written):
    directory = source("byte_level_bpe")
    edit(directory, added_tokens_decoder={"900": added("<|think|>", special=True)})
    size = len(AutoTokenizer.from_pretrained(directory)) - 1
    _, record, said = written(directory, vocab_size=size)
    assert record.beyond_embedding == 1
    assert any(f"has 1 tokens without a row of the embedding, which has {size}: '<|think|>'" in text for text in said)
    _, record, said = written(directory, vocab_size=size - 100)
    assert record.beyond_embedding == 101
    assert any("100 of them are no added tokens: is it the tokenizer of another model?" in text for text in said)


def test_a_turn_that_no_stop_token_ends_is_said(source, written):
    _, _, said = written(source("byte_level_bpe"))
    assert any("ends answers with '<|im_end|>', which is no stop token" in text for text in said)
    assert any("Add 4 to eos_token_id of generation_config.json" in text for text in said)


@pytest.mark.parametrize("template", ["{% for message in messages %}", "{{ raise_exception('Only tools.') }}"])
def test_a_template_that_renders_no_turn_is_said(source, written, template):
    directory = source("byte_level_bpe")
    (directory / "chat_template.jinja").write_text(template)
    _, _, said = written(directory)
    assert any("One user's turn can't be rendered, here or by transformers: " in text for text in said)


def test_the_remedies_work(source, written):
    directory = source("byte_level_bpe")
    (directory / "generation_config.json").write_text('{"eos_token_id": [2, 4]}')
    _, _, said = written(directory)
    assert said == []


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word", "normalized"])
def test_flags_of_added_tokens_survive(tmp_path, written, flag):
    tokenizer = byte_level_bpe()
    tokenizer.add_tokens([AddedToken("<|think|>", **{flag: True})])
    directory = write(tmp_path / "source", tokenizer)
    llm, record, _ = written(directory)
    assert record.status == "equal"
    assert_equal(llm, directory)


def test_split_special_tokens_are_split_in_the_bundle_too(source, written):
    directory = source("byte_level_bpe")
    edit(directory, split_special_tokens=True)
    llm, _, _ = written(directory)
    assert 2 not in BundleTokenizer(llm).encode("</s>")
    assert_equal(llm, directory)


def test_decoding_cleans_spaces_up_where_transformers_does(source, written):
    directory = source("word_piece")
    edit(directory, clean_up_tokenization_spaces=True)
    llm, record, _ = written(directory)
    assert record.status == "equal"
    assert (
        BundleTokenizer(llm).decode(BundleTokenizer(llm).encode("Hello world, isn't it ?")) == "hello world, isn't it?"
    )
    assert_equal(llm, directory)
