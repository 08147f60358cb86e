"""A tokenizer of single bytes with special tokens, so that every text can be read back from its ids."""

from __future__ import annotations

import json

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from edgellm_core.runtime.tokenizer import BundleTokenizer

SPECIAL = ("<s>", "</s>", "<pad>")
TEMPLATE = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"


@pytest.fixture(scope="session")
def make_tokenizer(tmp_path_factory):
    """Return a function that writes a tokenizer and opens it."""

    def make(*, bos=False, eos=True, template=TEMPLATE):
        folder = tmp_path_factory.mktemp("tokenizer")
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
        if bos:
            begin = tokenizer.token_to_id("<s>")
            tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", begin)])
        tokenizer.enable_padding(pad_id=tokenizer.token_to_id("<pad>"), pad_token="<pad>")
        tokenizer.save(str(folder / "tokenizer.json"))
        config = {"pad_token": "<pad>"} | ({"eos_token": "</s>"} if eos else {})
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        if template:
            (folder / "chat_template.jinja").write_text(template)
        return BundleTokenizer(folder)

    return make


@pytest.fixture(scope="session")
def tokenizer(make_tokenizer):
    """A tokenizer with an end token and a chat template."""
    return make_tokenizer()
