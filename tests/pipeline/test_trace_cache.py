"""A damaged entry of the trace cache is dropped; what it holds is never trusted without its digest."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from edgellm_core.pipeline.trace_cache import cached_template, store_template
from edgellm_core.tracing.template import Template

MODEL = helper.make_model(helper.make_graph([], "empty", [], []))
TEMPLATE = Template(
    model=MODEL, layers="layers", representative_of=(0,), parameters={}, sources={}, tied={}, left_out={}, calls={}
)
DAMAGED = [b"", b"[]", b"{}", b"\xff", b"[" * 10_000, b'{"layers": ' + b"9" * 5000 + b"}", None]


@pytest.fixture
def entry(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGELLM_CACHE", str(tmp_path))
    store_template("key", TEMPLATE)
    return tmp_path / "traces" / "key"


def test_a_stored_template_is_found(entry):
    found = cached_template("key")
    assert found is not None
    assert found.layers == TEMPLATE.layers
    assert found.model == onnx.load_model_from_string(MODEL.SerializeToString())


@pytest.mark.parametrize("name", ["template.json", "template.onnx", "digest"])
@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_entry_is_dropped_and_stored_again(entry, name, content):
    (entry / name).unlink() if content is None else (entry / name).write_bytes(content)
    assert cached_template("key") is None
    store_template("key", TEMPLATE)
    assert cached_template("key") is not None


@pytest.mark.parametrize("name", ["template.json", "template.onnx"])
def test_one_changed_byte_is_noticed(entry, name):
    content = bytearray((entry / name).read_bytes())
    content[-1] ^= 1
    (entry / name).write_bytes(content)
    assert cached_template("key") is None
