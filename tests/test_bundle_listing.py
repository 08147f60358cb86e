"""Everything that is loaded of a bundle is listed with its digest, and nothing is a link."""

from __future__ import annotations

import json
import shutil

import pytest

from edgellm_core.bundle import load_bundle
from edgellm_core.bundle.errors import DamagedBundleError
from edgellm_core.testing.decoder_bundle import write_decoder_bundle


@pytest.fixture
def bundle(tmp_path):
    return write_decoder_bundle(tmp_path / "bundle").directory


def unlist(*names):
    """Return a change that takes files out of the manifest."""

    def change(bundle):
        path = bundle / "bundle.json"
        fields = json.loads(path.read_text())
        kept = [record for record in fields["files"] if record["path"] not in names and names]
        path.write_text(json.dumps({**fields, "files": kept}))

    return change


def add(name):
    def change(bundle):
        path = bundle / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")

    return change


def link(name):
    def change(bundle):
        path = bundle / name
        aside = bundle.parent / "aside"
        shutil.move(path, aside)
        path.symlink_to(aside)

    return change


CHANGES = {
    "no files": (unlist(), "llm/model.onnx"),
    "no graph": (unlist("llm/model.onnx"), "llm/model.onnx"),
    "no tokenizer": (unlist("llm/tokenizer.json"), "llm/tokenizer.json"),
    "no config": (unlist("llm/config.json"), "llm/config.json"),
    "a template was added": (add("llm/chat_template.jinja"), "llm/chat_template.jinja"),
    "a generation config was added": (add("llm/generation_config.json"), "llm/generation_config.json"),
    "a file in a new folder": (add("llm/additional_chat_templates/tool.jinja"), "llm/additional_chat_templates/tool"),
    "a file is a link": (link("llm/tokenizer.json"), "llm/tokenizer.json"),
    "the folder is a link": (link("llm"), "llm"),
}


@pytest.mark.parametrize(("change", "named"), CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("check_digests", [True, False])
def test_what_is_not_as_listed_is_refused_by_name(bundle, change, named, check_digests):
    change(bundle)
    with pytest.raises(DamagedBundleError, match=f"^'{named}.*Copy or build the bundle again"):
        load_bundle(bundle, check_digests=check_digests)


def test_what_lies_beside_the_bundle_s_folders_is_left_alone(bundle):
    (bundle / "notes.txt").write_text("mine")
    assert load_bundle(bundle).directory == bundle


def test_an_engine_that_no_build_finished_is_not_there(bundle):
    (bundle / "llm/llm.engine").write_bytes(b"whole, but the build was stopped")
    (bundle / "llm/.llm.engine.partial").write_bytes(b"half")
    assert load_bundle(bundle).engine_path is None
