"""Tokenizers and chat templates as people have them."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from tests.corpus.case import Made, case
from tests.corpus.checkpoints import edit_json, llama
from tests.tokenization import kinds

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 520
"""Rows of the embedding: more than the tokens of any of these tokenizers."""

SHORT: dict[str, Any] = {"lengths": (3,), "new_tokens": 4}
ANEW = "The tokenizer is written anew"


def model(folder: Path, kind: str = "byte_level_bpe", **settings: Any) -> Path:
    """Write a small Llama with a tokenizer of a kind; return its folder."""
    source = bare(folder)
    kinds.write(source, kinds.KINDS[kind](), **settings)
    return source


def bare(folder: Path, **fields: Any) -> Path:
    """Write a small Llama without tokenizer; return its folder."""
    source = llama(folder, vocab_size=ROWS, **fields)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).unlink()
    return source


def settings_of(source: Path) -> Path:
    """Return the path of tokenizer_config.json."""
    return source / "tokenizer_config.json"


@case(outcome="right", note=ANEW, **SHORT)
def tokens_only_in_special_tokens_map(folder: Path) -> Made:
    """bos and eos that stand in special_tokens_map.json alone, and a template that writes them."""
    source = model(
        folder, chat_template="{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    )
    edit_json(settings_of(source), remove=("bos_token", "eos_token", "unk_token"))
    eos = {"content": "<|im_end|>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    (source / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<|im_start|>", "eos_token": eos}))
    return Made(source)


@case(outcome="right", note=ANEW, **SHORT)
def added_tokens_decoder_knows_more(folder: Path) -> Made:
    """Tokens of added_tokens_decoder that tokenizer.json lacks; read alone it would split them."""
    decoder = {"400": kinds.added("<|think|>", special=True), "401": kinds.added("<tool>", rstrip=True)}
    return Made(model(folder, added_tokens_decoder=decoder))


@case(outcome="right", note=ANEW, **SHORT)
def added_tokens_json_knows_more(folder: Path) -> Made:
    """Tokens of added_tokens.json that tokenizer.json lacks."""
    source = model(folder)
    (source / "added_tokens.json").write_text(json.dumps({"<|think|>": 400, "<tool>": 401}))
    return Made(source)


@case(outcome="right", note=ANEW, settings={"verify": "off"}, **SHORT)
def added_tokens_json_without_verification(folder: Path) -> Made:
    """The same with ``--verify off``: what the files themselves show is mended all the same."""
    return added_tokens_json_knows_more(folder)


@case(outcome="right", note=ANEW, **SHORT)
def additional_special_tokens_unknown_to_the_file(folder: Path) -> Made:
    """additional_special_tokens of transformers 4 that tokenizer.json lacks."""
    return Made(model(folder, additional_special_tokens=["<|think|>", "<tool>"]))


@case(outcome="right", note=ANEW, **SHORT)
def defaults_of_the_class(folder: Path) -> Made:
    """Special tokens that stand nowhere but in transformers' class."""
    source = model(folder, tokenizer_class="GPT2Tokenizer")
    edit_json(settings_of(source), remove=("bos_token", "eos_token", "unk_token"))
    return Made(source)


@case(outcome="right", **SHORT)
def rebuilt_by_its_class(folder: Path) -> Made:
    """A class of transformers that takes the vocabulary of tokenizer.json and makes the rest itself."""
    return Made(model(folder, tokenizer_class="Qwen2Tokenizer"))


@case(outcome="right", note=ANEW, **SHORT)
def vocab_and_merges(folder: Path) -> Made:
    """vocab.json and merges.txt, as GPT-2 had them, and no tokenizer.json."""
    source = bare(folder)
    kinds.byte_level_bpe().model.save(str(source))
    kinds.write(source, None, tokenizer_class="GPT2Tokenizer")
    return Made(source)


@case(outcome="right", note=ANEW, **SHORT)
def sentencepiece_alone(folder: Path) -> Made:
    """A sentencepiece tokenizer.model, as Llama 2 had it, and no tokenizer.json."""
    source = kinds.write_sentencepiece(bare(folder))
    kinds.write(source, None, tokenizer_class="LlamaTokenizer")
    return Made(source)


@case(outcome="right", note=ANEW, **SHORT)
def sentencepiece_without_settings(folder: Path) -> Made:
    """tokenizer.model and nothing else."""
    return Made(kinds.write_sentencepiece(bare(folder)))


@case(outcome="right", **SHORT)
def byte_fallback(folder: Path) -> Made:
    """BPE over characters whose rest is bytes, with a bos token around each text."""
    return Made(model(folder, "byte_fallback_bpe"))


@case(outcome="right", **SHORT)
def unigram(folder: Path) -> Made:
    """Unigram with Metaspace, which normalizes by NFKC."""
    return Made(model(folder, "unigram"))


@case(outcome="right", **SHORT)
def word_piece_with_cleaning(folder: Path) -> Made:
    """WordPiece whose decoding drops spaces before punctuation."""
    return Made(model(folder, "word_piece", clean_up_tokenization_spaces=True))


@case(outcome="right", **SHORT)
def split_special_tokens(folder: Path) -> Made:
    """Special tokens that are split like text."""
    return Made(model(folder, split_special_tokens=True))


@case(outcome="right", **SHORT)
def templates_as_mapping(folder: Path) -> Made:
    """Named chat templates as a mapping; tools take ``tool_use``."""
    return Made(model(folder, chat_template={"default": kinds.CHATML, "tool_use": "{{ tools | tojson }}"}))


@case(outcome="right", **SHORT)
def templates_as_files(folder: Path) -> Made:
    """chat_template.jinja and additional_chat_templates/tool_use.jinja."""
    source = model(folder)
    edit_json(settings_of(source), remove=("chat_template",))
    (source / "chat_template.jinja").write_text(kinds.CHATML)
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools | tojson(indent=2) }}")
    return Made(source)


@case(outcome="right", note="ends answers with '<|im_end|>', which is no stop token", **SHORT)
def template_without_stop_token(folder: Path) -> Made:
    """A chat template that ends turns with a token that ends no generation."""
    return Made(model(folder))


@case(outcome="right", note="tokens without a row of the embedding, which has 520", **SHORT)
def token_beyond_the_embedding(folder: Path) -> Made:
    """A tokenizer with a token that the model has no embedding for."""
    filler = {str(index): kinds.added(f"<filler_{index}>") for index in range(400, 540)}
    return Made(model(folder, added_tokens_decoder=filler))


@case(outcome="right", note="The checkpoint has no tokenizer; the bundle runs on token ids only.", new_tokens=0)
def no_tokenizer(folder: Path) -> Made:
    """A model without any file of a tokenizer."""
    return Made(bare(folder))


@case(outcome="refused", message="is a pointer of Git LFS. Run git lfs pull there")
def pointer_as_tokenizer(folder: Path) -> Made:
    """A tokenizer.json that Git LFS did not download."""
    return _pointer(folder, "tokenizer.json")


@case(outcome="refused", message="is a pointer of Git LFS. Run git lfs pull there")
def pointer_as_sentencepiece(folder: Path) -> Made:
    """A tokenizer.model that Git LFS did not download."""
    return _pointer(folder, "tokenizer.model")


def _pointer(folder: Path, name: str) -> Made:
    source = model(folder)
    (source / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 17\n")
    return Made(source)


@case(outcome="refused", message="it has only tokenizer_config.json. Put tokenizer.json there")
def settings_alone(folder: Path) -> Made:
    """tokenizer_config.json alone, of which transformers makes an empty tokenizer."""
    source = bare(folder)
    kinds.write(source, None, tokenizer_class="LlamaTokenizer")
    return Made(source)


@case(outcome="refused", message="must be able to read the tokenizer in")
def damaged_tokenizer(folder: Path) -> Made:
    """A tokenizer.json that ends in the middle."""
    source = model(folder)
    text = (source / "tokenizer.json").read_text()
    (source / "tokenizer.json").write_text(text[: len(text) // 2])
    return Made(source)


@case(outcome="refused", message="must be able to read the tokenizer in")
def tekken_alone(folder: Path) -> Made:
    """A tekken.json without what it should hold."""
    source = bare(folder)
    (source / "tekken.json").write_text('{"config": {}, "vocab": []}')
    return Made(source)


@case(outcome="refused", message="needs the checkpoint's own Python code, 'own.Tokenizer', which is not trusted")
def own_code(folder: Path) -> Made:
    """A tokenizer of the checkpoint's own Python code."""
    source = bare(folder)
    (source / "own.py").write_text("raise SystemExit\n")
    (source / "vocab.txt").write_text("a\nb\n")
    kinds.write(source, None, tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Tokenizer", None]})
    return Made(source)


@case(outcome="refused", message="knows none. Put the tokenizer.json of the model there")
def vocabulary_for_another_class(folder: Path) -> Made:
    """A vocab.txt beside a class that reads none, so that transformers makes an empty tokenizer."""
    source = bare(folder)
    (source / "vocab.txt").write_text("hello\nworld\n")
    kinds.write(source, None, tokenizer_class="LlamaTokenizer")
    return Made(source)


@case(outcome="right", note=ANEW, **SHORT)
def templates_beside_an_older_vocabulary(folder: Path) -> Made:
    """The folder of further templates beside a converted tokenizer."""
    source = vocab_and_merges(folder).source
    other = templates_as_files(folder / "other").source
    shutil.copytree(other / "additional_chat_templates", source / "additional_chat_templates")
    shutil.copyfile(other / "chat_template.jinja", source / "chat_template.jinja")
    return Made(source)
