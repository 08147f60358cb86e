"""Links in a checkpoint: into its own folder or a hub cache's blobs, and nowhere else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgellm_core.checkpoint.errors import LinkOutsideError
from edgellm_core.checkpoint.links import require_inside, require_links_inside
from edgellm_core.checkpoint.location import locate
from edgellm_core.pipeline.build import build
from edgellm_core.pipeline.settings import BuildSettings
from edgellm_core.registry import ModelRegistry
from edgellm_core.testing.checkpoints import write_tiny_checkpoint

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 131, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64,
}  # fmt: skip

READ = (
    "config.json", "generation_config.json", "model.safetensors", "model-00001-of-00002.safetensors",
    "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "merges.txt",
    "tokenizer.model", "chat_template.jinja", "modeling_acme.py", "hf_quant_config.json",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "checkpoint"
    place.mkdir()
    (tmp_path / "secret").write_text("secret")
    return place


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("target", ["../secret", "absolute", "chain"])
def test_a_file_that_leads_outside_is_refused_by_name(folder, name, target):
    if target == "chain":
        (folder / "sub").mkdir()
        (folder / "sub" / "link").symlink_to("../../secret")
    places = {"absolute": folder.parent / "secret", "chain": "sub/link"}
    (folder / name).symlink_to(places.get(target, target))
    with pytest.raises(LinkOutsideError, match=f"{name}' must be a file of the checkpoint; it is a link that leads to"):
        locate(str(folder), registry=ModelRegistry.load())


@pytest.mark.parametrize("target", ["nothing", "tokenizer.json"], ids=["dangling", "loop"])
def test_a_link_that_leads_nowhere_is_refused(folder, target):
    (folder / "tokenizer.json").symlink_to(target)
    with pytest.raises(LinkOutsideError, match="leads nowhere"):
        require_links_inside(folder)


def test_templates_in_their_folder_count_too(folder):
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/tool.jinja").symlink_to("../../secret")
    with pytest.raises(LinkOutsideError, match=r"tool\.jinja"):
        require_links_inside(folder)
    shutil.rmtree(folder / "additional_chat_templates")
    (folder / "additional_chat_templates").symlink_to("..")
    with pytest.raises(LinkOutsideError, match="additional_chat_templates"):
        require_links_inside(folder)


def test_links_inside_and_what_nothing_reads_are_left_alone(folder):
    (folder / "weights").mkdir()
    (folder / "weights/model.safetensors").touch()
    (folder / "model.safetensors").symlink_to("weights/model.safetensors")
    (folder / ".cache").symlink_to("../secret")
    (folder / "data").symlink_to("..")
    require_links_inside(folder)


def test_a_folder_that_is_reached_by_a_link_is_the_folder(folder, tmp_path):
    (folder / "config.json").touch()
    (tmp_path / "named").symlink_to(folder)
    require_links_inside(tmp_path / "named")
    require_inside(tmp_path / "named", folder / "config.json")


def hub_cache(checkpoint, place):
    """Lay a checkpoint out as huggingface_hub does."""
    blobs, snapshot = place / "blobs", place / "snapshots" / "0123abc"
    for folder in (blobs, snapshot):
        folder.mkdir(parents=True)
    for number, path in enumerate(sorted(checkpoint.iterdir())):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    return snapshot


@pytest.mark.slow
def test_a_snapshot_of_a_hub_cache_is_built_into_a_bundle_without_links(tmp_path):
    snapshot = hub_cache(write_tiny_checkpoint(tmp_path / "made", LLAMA), tmp_path / "models--acme--tiny")
    settings = BuildSettings(engine="none", precision="fp32", verify="off")
    bundle = build(str(snapshot), tmp_path / "out", settings)
    assert not [path for path in bundle.directory.rglob("*") if path.is_symlink()]
    (tmp_path / "secret").write_text("secret")
    (snapshot / "vocab.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(LinkOutsideError, match=r"vocab\.txt"):
        build(str(snapshot), tmp_path / "other", settings)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("remedy", ["copied", "removed"])
def test_the_remedy_works(folder, remedy):
    link = folder / "vocab.txt"
    link.symlink_to("../secret")
    target = Path(link).resolve()
    link.unlink()
    if remedy == "copied":
        shutil.copy(target, link)
    require_links_inside(folder)
