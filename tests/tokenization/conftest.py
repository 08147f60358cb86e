from __future__ import annotations

import json
import shutil

import pytest

from edgellm_core.checkpoint.source import Checkpoint, SourceRecord
from edgellm_core.events import Reporter
from edgellm_core.generic import GenericFamily
from edgellm_core.tokenization.writing import write_tokenizer
from tests.tokenization.kinds import KINDS, write


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Function from a kind to the folder of a tokenizer of it."""
    root = tmp_path_factory.mktemp("kinds")

    def folder(kind):
        if not (root / kind).exists():
            write(root / kind, KINDS[kind]())
        return root / kind

    return folder


@pytest.fixture
def source(trained, tmp_path):
    """Function from a kind to a copy of a tokenizer of it."""

    def copy(kind):
        return shutil.copytree(trained(kind), tmp_path / "source")

    return copy


@pytest.fixture
def written(tmp_path):
    """Function from a folder to what was written of its tokenizer, the manifest's record, and what was said."""

    def run(directory, *, compared=True, vocab_size=1000, template=None, trust_remote_code=False):
        family = GenericFamily()
        family.chat_template = lambda: template
        config = {"model_type": "llama", "vocab_size": vocab_size, "eos_token_id": 2}
        if not (directory / "config.json").exists():
            (directory / "config.json").write_text(json.dumps(config))
        record = SourceRecord(kind="directory", id="x", revision=None, digest="0")
        checkpoint = Checkpoint(
            directory=directory, source=record, config=config, tensors={}, headers=[],
            trust_remote_code=trust_remote_code,
        )  # fmt: skip
        out, said = tmp_path / "llm", []
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        report = Reporter("tokenizer", lambda event: said.append(event.message))
        return out, write_tokenizer(checkpoint, family, out, report, compared=compared), said

    return run
