"""The manifest's exact keys, and loading: whatever was changed after publication is named."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgellm_core.bundle import (
    AnswersRecord,
    EngineRecord,
    FamilyRecord,
    FileRecord,
    LeftOutRecord,
    Manifest,
    ProfileRecord,
    QualityRecord,
    QuantizationRecord,
    RuntimeRecord,
    SampleRecord,
    SourceRecord,
    StageRecord,
    SurgeryRecord,
    TargetPluginRecord,
    TokenizerRecord,
    VerificationRecord,
    file_records,
    load_bundle,
    read_manifest,
    write_manifest,
)
from edgellm_core.bundle.errors import (
    DamagedBundleError,
    InvalidManifestError,
    NotABundleError,
    OutputNotWritableError,
    UnknownSchemaError,
)

if TYPE_CHECKING:
    from pathlib import Path

FILES = {"llm/model.onnx": b"graph", "llm/model.onnx.data": bytes(range(256)) * 9000, "llm/config.json": b"{}"}

KEYS = {
    "": {
        "schema_version", "source", "family", "target", "precision", "versions", "stages", "verification", "quality",
        "surgery", "engine", "files", "quantization", "runtime", "answers", "sample", "left_out", "tokenizer",
        "attention_scores", "target_plugin",
    },
    "tokenizer": {"status", "reference", "texts", "chats", "written", "beyond_embedding"},
    "source": {"kind", "id", "revision", "digest"},
    "family": {"name", "plugin", "version", "package"},
    "target_plugin": {"plugin", "version", "package"},
    "stages": {"name", "seconds", "peak_rss_mib", "cached"},
    "verification": {
        "status", "reference", "prompts", "max_rel_err", "top1_agreement", "kl", "greedy_tokens_equal", "tolerance",
        "twin", "arithmetic",
    },
    "quality": {
        "reference", "text", "tokens", "perplexity", "original_perplexity", "kl", "top1_agreement", "max_kl",
    },
    "runtime": {"reread_at", "stop_tokens", "settings", "not_applied"},
    "left_out": {"pattern", "tensors", "bytes", "why"},
    "answers": {"reference", "prompts", "tokens", "max_rel_err", "ties"},
    "sample": {"question", "chat", "bundle", "original", "no_bundle", "no_original"},
    "surgery": {"rule", "expected", "applied"},
    "quantization": {"linears", "kv_cache", "compute_precision", "producer"},
    "engine": {"backend", "version", "compute_capability", "profiles", "bytes"},
    "files": {"path", "bytes", "sha256"},
}  # fmt: skip
"""Keys of each part of bundle.json, from the design."""


def make_manifest(files=(), **changes) -> Manifest:
    fields = {
        "source": SourceRecord(kind="directory", id="tiny", revision=None, digest="sha256:00"),
        "family": FamilyRecord(name="llama", plugin="edgellm_plugins.llama", version="0.1.0"),
        "target": "onnx",
        "target_plugin": TargetPluginRecord(plugin="acme", version="1.2.3", package="edgellm-acme"),
        "precision": "fp16",
        "left_out": [LeftOutRecord(pattern="vision_tower.*", tensors=2, bytes=64, why="it is not read")],
        "versions": {"edgellm": "0.1.0", "onnx": "1.23.2"},
        "stages": [StageRecord(name="trace", seconds=1.5, peak_rss_mib=401.2, cached=False)],
        "verification": VerificationRecord(
            status="passed", reference="transformers, float32", prompts=4, max_rel_err=1e-3, top1_agreement=1.0,
            kl=1e-7, greedy_tokens_equal=True, tolerance=2e-2,
        ),
        "quality": QualityRecord(
            reference="transformers, float32", text="builtin", tokens=8176, perplexity=18.3, original_perplexity=18.2,
            kl=1e-2, top1_agreement=0.97, max_kl=None,
        ),
        "runtime": RuntimeRecord(
            reread_at=4097, stop_tokens=(2, 3), settings={"sequence_bias": [[[5], -1.5]]}, not_applied={"num_beams": 4}
        ),
        "answers": [AnswersRecord(reference="settings", prompts=3, tokens=144, max_rel_err=1e-7, ties=0)],
        "sample": SampleRecord(question="Who?", chat=True, bundle="Me.", original="I."),
        "surgery": [
            SurgeryRecord(rule="RmsNormToStandard", expected=5, applied=5),
            SurgeryRecord(rule="RemoveIdentity", expected=(0, None), applied=2),
        ],
        "engine": EngineRecord(
            backend="tensorrt-rtx", version="1.7.1", compute_capability=120, bytes=7,
            profiles=[ProfileRecord(name="decode", batch=(1, 1, 1), seq=(1, 1, 1), past=(0, 512, 1023))],
        ),
        "quantization": QuantizationRecord(
            linears={"fp8": 14}, kv_cache="fp8", compute_precision="fp16", producer="modelopt 0.47.0"
        ),
        "tokenizer": TokenizerRecord(
            status="equal", reference="GPT2Tokenizer", texts=74, chats=16, written=None, beyond_embedding=0,
        ),
        "files": files,
    }  # fmt: skip
    return Manifest(**{**fields, **changes})


@pytest.fixture
def bundle(tmp_path) -> Path:
    directory = tmp_path / "bundle"
    for name, data in FILES.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    write_manifest(directory, make_manifest(file_records(directory)))
    return directory


def change(directory: Path, edit) -> None:
    path = directory / "bundle.json"
    fields = json.loads(path.read_text())
    edit(fields)
    path.write_text(json.dumps(fields))


def test_written_keys_are_exactly_those_of_the_design(bundle):
    fields = json.loads((bundle / "bundle.json").read_text())
    parts = {"": fields, **{name: fields[name] for name in KEYS if name}}
    found = {name: set(part[0] if isinstance(part, list) else part) for name, part in parts.items()}
    assert found == KEYS


def test_manifest_survives_writing_and_reading(bundle):
    assert read_manifest(bundle) == make_manifest(file_records(bundle))
    assert json.loads((bundle / "bundle.json").read_text())["schema_version"] == 1


def test_what_was_not_done_is_null(tmp_path):
    manifest = make_manifest(engine=None, quality=None, verification=VerificationRecord(status="skipped"))
    write_manifest(tmp_path, manifest)
    fields = json.loads((tmp_path / "bundle.json").read_text())
    assert fields["engine"] is None
    assert fields["quality"] is None
    assert set(fields["verification"]) == KEYS["verification"]
    assert read_manifest(tmp_path) == manifest


def test_file_records_name_every_file_but_the_manifest(bundle):
    records = file_records(bundle)
    assert [record.path for record in records] == sorted(FILES)
    assert {record.path: (record.bytes, record.sha256) for record in records} == {
        name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in FILES.items()
    }


def test_known_digest_is_not_computed_again(bundle):
    known = {"llm/model.onnx.data": "a" * 64}
    records = {record.path: record.sha256 for record in file_records(bundle, known)}
    assert records["llm/model.onnx.data"] == "a" * 64
    assert records["llm/model.onnx"] == hashlib.sha256(b"graph").hexdigest()


def test_load_gives_the_paths(bundle):
    loaded = load_bundle(bundle)
    assert (loaded.directory, loaded.llm, loaded.model_path, loaded.engine_path) == (
        bundle, bundle / "llm", bundle / "llm/model.onnx", bundle / "llm/llm.engine",
    )  # fmt: skip
    assert loaded.manifest.family.name == "llama"


@given(st.integers(0, len(FILES["llm/model.onnx.data"]) - 1), st.integers(1, 255))
def test_one_changed_byte_is_found_anywhere(tmp_path_factory, position, difference):
    directory = tmp_path_factory.mktemp("bundle")
    data = bytearray(FILES["llm/model.onnx.data"])
    (directory / "llm").mkdir()
    (directory / "llm/model.onnx").write_bytes(FILES["llm/model.onnx"])
    (directory / "data").write_bytes(data)
    write_manifest(directory, make_manifest(file_records(directory)))
    data[position] ^= difference
    (directory / "data").write_bytes(data)
    expected = hashlib.sha256(FILES["llm/model.onnx.data"]).hexdigest()
    match = f"'data' of the bundle .* sha256 {expected}, found {hashlib.sha256(data).hexdigest()}"
    with pytest.raises(DamagedBundleError, match=match):
        load_bundle(directory)
    load_bundle(directory, check_digests=False)


@pytest.mark.parametrize("check_digests", [True, False])
@pytest.mark.parametrize("name", list(FILES))
def test_missing_and_shortened_files_are_named(bundle, name, check_digests):
    size = len(FILES[name])
    (bundle / name).write_bytes(FILES[name][:-1])
    with pytest.raises(DamagedBundleError, match=rf"'{name}' .* says {size} bytes, found {size - 1} bytes"):
        load_bundle(bundle, check_digests=check_digests)
    (bundle / name).unlink()
    with pytest.raises(DamagedBundleError, match=rf"'{name}' .* says {size} bytes, found no such file"):
        load_bundle(bundle, check_digests=check_digests)


@pytest.mark.parametrize(("text", "error", "match"), [
    ("{", InvalidManifestError, "not valid JSON"),
    ("[]", InvalidManifestError, "expected an object, found list"),
    ('"\udcff"', InvalidManifestError, "not UTF-8"),
    ("{}", UnknownSchemaError, "schema_version None; this edgellm reads 1"),
    ('{"schema_version": 2, "anything": 3}', UnknownSchemaError, "schema_version 2; this edgellm reads 1"),
    ('{"schema_version": 1}', InvalidManifestError, "at 'source': Field required"),
])  # fmt: skip
def test_other_contents_of_the_manifest_are_refused(tmp_path, text, error, match):
    (tmp_path / "bundle.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(error, match=match):
        load_bundle(tmp_path)


@pytest.mark.parametrize("part", list(KEYS))
def test_unknown_and_missing_keys_are_named(bundle, part):
    original = (bundle / "bundle.json").read_text()

    def of(fields):
        chosen = fields[part] if part else fields
        return chosen[0] if isinstance(chosen, list) else chosen

    change(bundle, lambda fields: of(fields).update(surprise=1))
    with pytest.raises(InvalidManifestError, match=rf"at '{part}.*surprise': Extra inputs are not permitted"):
        load_bundle(bundle)
    (bundle / "bundle.json").write_text(original)
    key = {"": "files", "verification": "status", "tokenizer": "status", "sample": "question"}.get(
        part, min(KEYS[part])
    )
    change(bundle, lambda fields: of(fields).pop(key))
    with pytest.raises(InvalidManifestError, match=rf"at '{part}.*{key}': Field required"):
        load_bundle(bundle)


@pytest.mark.parametrize(("key", "value", "problem"), [
    ("precision", 16, "valid string"), ("versions", {"onnx": 1}, "valid string"), ("stages", {}, "valid array"),
    ("verification", {"status": "failed"}, "'passed' or 'skipped'"),
])  # fmt: skip
def test_value_of_another_type_is_named(bundle, key, value, problem):
    change(bundle, lambda fields: fields.update({key: value}))
    with pytest.raises(InvalidManifestError, match=rf"at '{key}.*{problem}"):
        load_bundle(bundle)


@pytest.mark.parametrize("path", ["/etc/passwd", "../other", "llm/../../x", "", ".", "a\\b"])
def test_paths_outside_the_bundle_are_refused(path):
    with pytest.raises(ValidationError, match="relative path inside the bundle"):
        FileRecord(path=path, bytes=1, sha256="0" * 64)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_measurements_are_finite_and_not_negative(value):
    with pytest.raises(ValidationError, match="max_rel_err"):
        VerificationRecord(status="passed", max_rel_err=value)


def test_path_that_is_no_bundle_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    for path, reason in [
        (tmp_path / "none", "there is no such directory"),
        (tmp_path / "file", "there is no such directory"),
        (tmp_path, r"it has no bundle\.json"),
    ]:
        with pytest.raises(NotABundleError, match=rf"is not an edgellm bundle: {reason}\. Build one"):
            load_bundle(path)


def test_manifest_in_a_place_that_can_not_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputNotWritableError, match=r"Can't write the bundle to .*Not a directory"):
        write_manifest(tmp_path / "file", make_manifest())


def test_loading_imports_nothing_heavy(bundle):
    script = f"""
import sys
from pathlib import Path
from edgellm_core.bundle import load_bundle
load_bundle(Path({str(bundle)!r}))
print(sorted({{"torch", "onnx", "transformers", "tensorrt", "numpy"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
