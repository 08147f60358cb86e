"""What the registry calls verified has a record of the conformance kit, and each record belongs to such a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgellm_core.registry import ModelRegistry
from edgellm_core.testing.errors import RecordFileError
from edgellm_core.testing.records import read_record, write_record

RECORDS = Path(__file__).parents[2] / "conformance"
REGISTRY = ModelRegistry.load()
VERIFIED = [
    (model, precision)
    for model in REGISTRY.names()
    for precision, known in REGISTRY.get(model).precisions.items()
    if known.status == "verified"
]


@pytest.mark.parametrize(("model", "precision"), VERIFIED, ids=["-".join(pair) for pair in VERIFIED])
def test_a_verified_model_has_a_record_of_its_own(model, precision):
    record = read_record(RECORDS / f"{model}-{precision}.json")
    entry = REGISTRY.get(model)
    assert (record.model, record.precision, record.family.name) == (model, precision, entry.family)
    assert record.source.id in {entry.hub, entry.package} or record.source.kind in {"directory", "gguf"}
    proof = record.verification
    assert proof.status == "passed"
    assert proof.greedy_tokens_equal
    assert proof.max_rel_err <= (entry.precisions[precision].max_rel_err or proof.tolerance)
    assert record.engine is not None
    assert record.engine.bytes > 0


def test_each_record_belongs_to_a_verified_model():
    assert sorted(path.stem for path in RECORDS.iterdir()) == sorted("-".join(pair) for pair in VERIFIED)


def test_a_record_survives_writing(tmp_path):
    record = read_record(RECORDS / "smollm2-135m-instruct-fp16.json")
    path = write_record(tmp_path / "new", record)
    assert path.name == "smollm2-135m-instruct-fp16.json"
    assert read_record(path) == record


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"bytes": "many"}, "bytes"),
        ({"extra": 1}, "extra"),
    ],
    ids=["another schema", "wrong type", "unknown key"],
)
def test_a_malformed_record_is_refused(tmp_path, change, problem):
    fields = json.loads((RECORDS / "smollm2-135m-instruct-fp16.json").read_text())
    (tmp_path / "x.json").write_text(json.dumps({**fields, **change}))
    with pytest.raises(RecordFileError, match=f"wrong value at '{problem}'"):
        read_record(tmp_path / "x.json")


def test_a_missing_record_is_refused(tmp_path):
    with pytest.raises(RecordFileError, match=r"can't be read.*edgellm plugins test"):
        read_record(tmp_path / "x.json")
