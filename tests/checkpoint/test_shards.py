from __future__ import annotations

import json
import shutil

import pytest
import safetensors.numpy
import safetensors.torch
import torch

from edgellm_core.checkpoint.errors import (
    DifferingCopiesError,
    MissingShardError,
    NoWeightsError,
    PickleCheckpointError,
    ShardIndexError,
    TruncatedFileError,
)
from edgellm_core.checkpoint.shards import index_tensors, read_headers, read_weight_files
from edgellm_core.untrusted.errors import UnreadableFileError


def rewrite_index(directory, change):
    path = directory / "model.safetensors.index.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))


@pytest.mark.parametrize("name", ["tiny_single", "tiny_sharded"])
def test_index_holds_the_bytes_of_every_tensor(request, name):
    directory = request.getfixturevalue(name)
    index = index_tensors(read_headers(directory))
    reference = {}
    for file in directory.glob("*.safetensors"):
        reference.update(safetensors.torch.load_file(file))
    assert set(index) == set(reference)
    assert len(index) == 21
    for tensor, value in reference.items():
        entry = index[tensor]
        assert entry.shape == tuple(value.shape)
        with entry.file.open("rb") as stream:
            stream.seek(entry.offset)
            assert stream.read(entry.nbytes) == value.flatten().view(torch.uint8).numpy().tobytes()


def test_sharded_fixture_has_several_files(tiny_sharded):
    assert len(list(tiny_sharded.glob("*.safetensors"))) > 2


def test_single_file_wins_over_an_index_as_in_transformers(sharded, tiny_single):
    shutil.copy(tiny_single / "model.safetensors", sharded)
    assert [header.file.name for header in read_headers(sharded)] == ["model.safetensors"]


def test_missing_shard_is_named(sharded):
    first = min(sharded.glob("model-*.safetensors"))
    first.unlink()
    with pytest.raises(MissingShardError, match=rf"1 of them are missing: {first.name}"):
        read_headers(sharded)


def test_truncated_shard_is_named(sharded):
    shard = sorted(sharded.glob("model-*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(TruncatedFileError, match=shard.name):
        read_headers(sharded)


def test_tensor_in_another_shard_than_the_index_says(sharded):
    weight_map = json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"]
    here, there = weight_map["model.layers.0.mlp.up_proj.weight"], weight_map["model.embed_tokens.weight"]
    assert here != there
    rewrite_index(sharded, lambda fields: fields["weight_map"].update({"model.layers.0.mlp.up_proj.weight": there}))
    files = read_weight_files(sharded)
    assert index_tensors(files.headers)["model.layers.0.mlp.up_proj.weight"].file.name == here
    (remark,) = files.remarks
    assert "names the wrong file for 1 tensor(s), for example 'model.layers.0.mlp.up_proj.weight'" in remark


def test_tensor_of_the_index_that_no_shard_has(sharded):
    def add(fields):
        fields["weight_map"]["ghost.weight"] = next(iter(fields["weight_map"].values()))

    rewrite_index(sharded, add)
    files = read_weight_files(sharded)
    assert "ghost.weight" not in index_tensors(files.headers)
    assert "lists, but no file holds, 1 tensor(s), for example 'ghost.weight'" in files.remarks[0]


def test_tensor_that_the_index_does_not_list(sharded):
    rewrite_index(sharded, lambda fields: fields["weight_map"].pop("model.norm.weight"))
    files = read_weight_files(sharded)
    assert "model.norm.weight" in index_tensors(files.headers)
    assert not files.remarks


def in_two_shards(sharded, change=lambda arrays: arrays):
    first, second = sorted(sharded.glob("model-*.safetensors"))[:2]
    extra = change(safetensors.numpy.load_file(first))
    safetensors.numpy.save_file({**extra, **safetensors.numpy.load_file(second)}, second)
    return first, second, extra


def test_tensor_in_two_shards_is_taken_from_the_last_as_in_transformers(sharded):
    first, second, extra = in_two_shards(sharded)
    files = read_weight_files(sharded)
    assert {taken.name for taken, _other in files.duplicates} == set(extra)
    assert {(taken.file, other.file) for taken, other in files.duplicates} == {(second, first)}
    assert {index_tensors(files.headers)[name].file for name in extra} == {second}
    assert not files.remarks


@pytest.mark.parametrize("change", [lambda a: a[:-1], lambda a: a.astype("float16")], ids=["shape", "type"])
def test_tensor_in_two_shards_with_other_headers_is_refused(sharded, change):
    first, second, _ = in_two_shards(sharded, lambda arrays: {name: change(array) for name, array in arrays.items()})
    with pytest.raises(DifferingCopiesError, match=rf"lies in {first.name} and in {second.name}, and the two differ"):
        read_headers(sharded)


def test_index_without_metadata(sharded):
    rewrite_index(sharded, lambda fields: fields.pop("metadata"))
    assert len(index_tensors(read_headers(sharded))) == 21


def test_numbered_files_need_no_index(sharded):
    with_index = index_tensors(read_headers(sharded))
    (sharded / "model.safetensors.index.json").unlink()
    files = read_weight_files(sharded)
    assert index_tensors(files.headers) == with_index
    assert "numbered files are read as one checkpoint" in files.remarks[0]


def test_missing_numbered_file_is_named(sharded):
    (sharded / "model.safetensors.index.json").unlink()
    shards = sorted(sharded.glob("model-*.safetensors"))
    shards[-1].unlink()
    with pytest.raises(MissingShardError, match=rf"{len(shards)} shards, and 1 of them are missing: {shards[-1].name}"):
        read_headers(sharded)


def test_two_numbered_sets_are_not_one_checkpoint(sharded):
    (sharded / "model.safetensors.index.json").unlink()
    (sharded / "other-00001-of-00001.safetensors").write_bytes(b"")
    with pytest.raises(NoWeightsError, match=r"one set of files like .*it has only model-00001"):
        read_headers(sharded)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "model.bin", 3])
def test_index_may_not_leave_its_directory(sharded, shard):
    rewrite_index(sharded, lambda fields: fields["weight_map"].update({"model.norm.weight": shard}))
    with pytest.raises(ShardIndexError, match=r"'model.norm.weight' is said to lie in .* not a file beside it"):
        read_headers(sharded)


@pytest.mark.parametrize("fields", [{}, {"weight_map": {}}, {"weight_map": []}])
def test_index_without_a_map(tmp_path, fields):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(fields))
    with pytest.raises(ShardIndexError, match="it has no weight_map"):
        read_headers(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "pytorch_model-00001-of-00002.bin"])
def test_pickle_files_are_refused_with_the_way_out(tmp_path, name):
    (tmp_path / name).write_bytes(b"never read")
    (tmp_path / "training_args.bin").write_bytes(b"never read")
    with pytest.raises(PickleCheckpointError, match=rf"\({name}\), which edgellm never reads.*save_pretrained"):
        read_headers(tmp_path)


def test_no_weights(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(NoWeightsError, match=r"needs model\.safetensors, .* it has none of them"):
        read_headers(tmp_path)


def test_weights_under_another_name_are_named(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(NoWeightsError, match=r"it has only weights\.safetensors"):
        read_headers(tmp_path)


def test_directory_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnreadableFileError, match="Not a directory"):
        read_headers(tmp_path / "file")
