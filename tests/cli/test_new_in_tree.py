"""``edgellm plugins new --in-tree`` and ``--from-config``: a family written from a real config.json."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from edgellm_core.cli import edgellm
from edgellm_core.cli.errors import (
    ClaimedFamilyError,
    ConfigWithoutFamilyError,
    FamilyNameError,
    FamilyNotWrittenError,
    NoRepositoryError,
)
from edgellm_core.cli.new_in_tree import with_package
from edgellm_core.host import PluginHost

ROOT = Path(__file__).parents[2]

OLMO = {
    "model_type": "olmo", "architectures": ["OlmoForCausalLM"], "hidden_size": 2048, "intermediate_size": 8192,
    "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 16, "clip_qkv": 8.0,
    "max_position_embeddings": 2048, "rope_theta": 500000.0, "torch_dtype": "bfloat16", "eos_token_id": 50279,
}  # fmt: skip
"""OLMo 1B's sizes, with the clipping that OLMo 7B has."""

WINDOWED = {
    "model_type": "acme", "architectures": ["AcmeForCausalLM"], "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "sliding_window": 4096,
}  # fmt: skip
"""Mistral 7B v0.1 under another name."""


@pytest.fixture
def clone(monkeypatch, tmp_path):
    """A clone as far as the command looks at one."""
    place = tmp_path / "clone"
    (place / "plugins").mkdir(parents=True)
    shutil.copy(ROOT / "plugins" / "__init__.py", place / "plugins")
    shutil.copy(ROOT / "pyproject.toml", place)
    for name in ("EDGELLM_PLUGINS", "EDGELLM_PLUGIN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(place / "plugins")
    return place


def new(*arguments):
    return CliRunner().invoke(edgellm, ["plugins", "new", *map(str, arguments)])


def write_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(fields))
    return path


def written_family(clone, name):
    host = PluginHost.load((clone / "plugins" / name,), environ={})
    return host.select({}, forced=name).family


@pytest.mark.parametrize("form", [lambda path: path, lambda path: path.parent], ids=["file", "folder"])
def test_a_real_config_gives_claims_and_a_small_config(clone, tmp_path, form):
    result = new("olmo", "--in-tree", "--from-config", form(write_config(tmp_path, **OLMO)))
    assert result.exit_code == 0, result.exception
    assert result.output.splitlines()[:3] == [
        "Wrote plugins/olmo and listed it in pyproject.toml. Next:",
        "  make docs lint",
        "  edgellm plugins test olmo",
    ]
    family = written_family(clone, "olmo")
    assert (family.model_types, family.architectures, family.modeled_as) == (("olmo",), ("OlmoForCausalLM",), "")
    tiny = family.tiny_config()
    assert tiny["clip_qkv"] == 8.0
    assert tiny["rope_parameters"]["rope_theta"] == 500000.0
    assert tiny["hidden_size"] < 128
    assert tiny["num_hidden_layers"] == 2
    assert not {"torch_dtype", "dtype", "eos_token_id"} & set(tiny)


def test_the_result_passes_lint_and_its_kit(clone, tmp_path):
    result = new("acme", "--in-tree", "--from-config", write_config(tmp_path, **WINDOWED), "--modeled-as", "mistral")
    assert result.exit_code == 0, result.exception
    assert written_family(clone, "acme").tiny_config()["sliding_window"] == 5
    settings = ["--config", str(ROOT / "pyproject.toml")]
    run(clone, "-m", "ruff", "check", *settings, "plugins/acme")
    run(clone, "-m", "ruff", "format", "--check", *settings, "plugins/acme")
    kit = "from edgellm_core.cli import console_script; console_script()"
    run(clone, "-c", kit, "plugins", "test", "acme", "--plugin-path", "plugins/acme")


def run(folder, *arguments):
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_keys_that_nothing_reads_are_asked_about(clone, tmp_path):
    result = new("olmo", "--in-tree", "--from-config", write_config(tmp_path, **OLMO, odd_factor=3.5))
    assert "Whether 'odd_factor' of config.json, which nothing reads, can change the math" in result.output
    assert "odd_factor" not in written_family(clone, "olmo").tiny_config()


def test_a_config_without_architectures_is_asked_about(clone, tmp_path):
    fields = {key: value for key, value in OLMO.items() if key != "architectures"}
    result = new("olmo", "--in-tree", "--from-config", write_config(tmp_path, **fields))
    assert "The architectures that it claims" in result.output
    assert written_family(clone, "olmo").architectures == ()


def test_without_a_config_it_is_a_llama_under_another_name(clone):
    assert new("acme", "--in-tree").exit_code == 0
    assert written_family(clone, "acme").modeled_as == "llama"
    assert set(yaml.safe_load((clone / "plugins/acme/matrix.yaml").read_text())) == {"l0"}


def test_a_pack_can_be_written_from_a_config_too(clone, tmp_path):
    result = new("olmo", "--from-config", write_config(tmp_path, **OLMO), "--directory", tmp_path / "pack")
    assert result.exit_code == 0, result.exception
    host = PluginHost.load((tmp_path / "pack/src/edgellm_olmo",), environ={})
    assert host.select({"model_type": "olmo"}).family.tiny_config()["clip_qkv"] == 8.0


REFUSED = {
    "a name with a dash": (["Ac-me", "--in-tree"], FamilyNameError, "lower-case words joined by '_'"),
    "a family's name": (["llama", "--in-tree"], FamilyNameError, "family that exists.*Change plugins/llama"),
    "a model that nothing describes": (["bloom", "--in-tree"], FamilyNameError, "--from-config FILE"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_a_name_that_no_folder_can_have_is_refused(clone, arguments, error, message):
    with pytest.raises(error, match=message):
        raise new(*arguments).exception
    assert [path.name for path in (clone / "plugins").iterdir()] == ["__init__.py"]


CONFIGS = {
    "no model_type": ({"hidden_size": 8}, ConfigWithoutFamilyError, "has no model_type"),
    "a model_type that is a list": ({"model_type": ["olmo"]}, ConfigWithoutFamilyError, "has no model_type"),
    "unknown to transformers": ({**OLMO, "model_type": "acme"}, ConfigWithoutFamilyError, "--modeled-as"),
    "no language model": ({"model_type": "vit"}, ConfigWithoutFamilyError, "no causal language model"),
    "claimed": ({"model_type": "llama"}, ClaimedFamilyError, "belongs to family 'llama' already"),
}


@pytest.mark.parametrize(("fields", "error", "message"), CONFIGS.values(), ids=CONFIGS)
def test_a_config_that_says_no_family_is_refused_and_nothing_is_written(clone, tmp_path, fields, error, message):
    before = (clone / "pyproject.toml").read_bytes()
    with pytest.raises(error, match=message):
        raise new("acme", "--in-tree", "--from-config", write_config(tmp_path, **fields)).exception
    assert (clone / "pyproject.toml").read_bytes() == before
    assert [path.name for path in (clone / "plugins").iterdir()] == ["__init__.py"]


def test_the_remedy_for_an_unknown_model_type_works(clone, tmp_path):
    config = write_config(tmp_path, **{**OLMO, "model_type": "acme"})
    assert new("acme", "--in-tree", "--from-config", config, "--modeled-as", "olmo").exit_code == 0
    assert written_family(clone, "acme").modeled_as == "olmo"


def test_outside_a_clone_is_an_error(clone, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NoRepositoryError, match="write a pack without --in-tree"):
        raise new("acme", "--in-tree").exception


def test_a_folder_that_exists_is_left_alone(clone):
    (clone / "plugins/acme").mkdir()
    with pytest.raises(FamilyNameError, match="Remove plugins/acme first"):
        raise new("acme", "--in-tree").exception
    (clone / "plugins/acme").rmdir()
    assert new("acme", "--in-tree").exit_code == 0


def test_a_package_list_that_can_t_be_written_leaves_nothing(clone, monkeypatch):
    def refuse(self, target):
        if Path(target).name == "pyproject.toml":
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    rename = Path.replace
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(FamilyNotWrittenError, match="nothing was changed"):
        raise new("acme", "--in-tree").exception
    assert sorted(path.name for path in clone.iterdir()) == ["plugins", "pyproject.toml"]
    assert [path.name for path in (clone / "plugins").iterdir()] == ["__init__.py"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["acme", "--in-tree", "--directory", "x"], "Leave one of them out"),
        (["acme", "--modeled-as", "llama"], "give --from-config FILE"),
    ],
)
def test_options_that_contradict_are_refused(clone, arguments, message):
    result = new(*arguments)
    assert result.exit_code == 2
    assert message in result.output


LISTED = (
    'packages = [\n    "edgellm_core",\n    "edgellm_plugins",\n    "edgellm_plugins.b",\n    "edgellm_plugins.d",\n]\n'
)


@pytest.mark.parametrize(("name", "place"), [("a", 0), ("c", 1), ("e", 2)])
def test_a_package_goes_to_its_place(name, place):
    packages = with_package(LISTED, f"edgellm_plugins.{name}").splitlines()[3:-1]
    names = ["b", "d"]
    names.insert(place, name)
    assert packages == [f'    "edgellm_plugins.{one}",' for one in names]


def test_a_package_is_listed_once():
    assert with_package(LISTED, "edgellm_plugins.b") == LISTED
