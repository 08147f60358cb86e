"""Routes, precedence, selection by name, records and digests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgellm_core.errors import UnknownNameError
from edgellm_core.host import plugin_digest
from edgellm_core.host.errors import PluginPathError
from edgellm_core.testing.plugin_files import family_source, write_family, write_plugin

IN_TREE = sorted(path.parent.name for path in (Path(__file__).parents[2] / "plugins").glob("*/__init__.py"))


def test_in_tree_folders_are_found_by_scanning(load):
    host = load()
    assert [(record.name, record.status) for record in host.records if record.origin == "in-tree"] == [
        (name, "active") for name in IN_TREE
    ]
    assert host.family_names() == sorted(["generic", *IN_TREE])


def test_records_say_where_a_plugin_came_from(tmp_path, entry_points, load, record_of):
    entry_points("alpha", family_source("alpha", ("alpha",)), version="2.5")
    path = write_family(tmp_path, "beta", "beta", ["beta"])
    path.write_text("__version__ = '7.0'\n" + path.read_text())
    host = load(path)
    alpha, beta = record_of(host, "alpha", "entry point"), record_of(host, "beta")
    assert (alpha.version, alpha.families, alpha.status) == ("2.5", ("alpha",), "active")
    assert (beta.version, beta.location, [str(claim) for claim in beta.claims]) == ("7.0", path, ["model_type 'beta'"])


@pytest.mark.parametrize("layout", ["file", "package", "folder of both"])
def test_a_path_is_a_file_a_package_or_a_folder_of_them(tmp_path, layout, load):
    package = tmp_path / "gamma"
    package.mkdir()
    (package / "family.py").write_text(
        "from edgellm_core.contract import ModelFamily\nclass Gamma(ModelFamily):\n    name = 'gamma'\n"
    )
    (package / "__init__.py").write_text(
        "from edgellm_core.hookspecs import hookimpl\nfrom .family import Gamma\n"
        "@hookimpl\ndef edgellm_register_families():\n    return [Gamma]\n"
    )
    file = write_family(tmp_path, "delta", "delta")
    path, names = {
        "file": (file, ["delta"]),
        "package": (package, ["gamma"]),
        "folder of both": (tmp_path, ["delta", "gamma"]),
    }[layout]
    assert [record.name for record in load(path).records if record.origin == "path"] == names


def test_the_environment_names_folders_and_a_folder_named_twice_counts_once(tmp_path, load):
    write_family(tmp_path / "a", "alpha", "alpha")
    write_family(tmp_path / "b", "beta", "beta")
    both = os.pathsep.join([str(tmp_path / "a"), str(tmp_path / "b")])
    host = load(tmp_path / "a", EDGELLM_PLUGIN_PATH=both)
    assert [record.name for record in host.records if record.origin == "path"] == ["alpha", "beta"]


def test_the_plugin_library_of_tensorrt_edge_llm_is_none_of_ours(tmp_path, load):
    write_family(tmp_path / "a", "alpha", "alpha")
    both = os.pathsep.join([str(tmp_path / "libNvInfer_edgellm_plugin.so"), str(tmp_path / "a")])
    assert [record.name for record in load(EDGELLM_PLUGIN_PATH=both).records if record.origin == "path"] == ["alpha"]


@pytest.mark.parametrize(
    ("name", "problem"), [("missing", "does not exist"), ("empty", "holds no plugin"), ("notes.txt", "not a Python")]
)
def test_a_path_without_plugins_is_refused(tmp_path, name, problem, load):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(PluginPathError, match=f"{name}' .*{problem}"):
        load(tmp_path / name)


def test_later_routes_win_claims_and_the_records_say_so(tmp_path, entry_points, load, record_of):
    entry_points("alpha", family_source("alpha", ("qwen2",)))
    write_family(tmp_path, "beta", "beta", ["qwen2", "beta"])
    host = load(tmp_path / "beta.py")
    assert host.select({"model_type": "qwen2"}).family.name == "beta"
    qwen2, alpha = record_of(host, "qwen2", "in-tree"), record_of(host, "alpha", "entry point")
    assert (qwen2.status, [str(claim) for claim in qwen2.claims]) == ("active", ["architectures 'Qwen2ForCausalLM'"])
    assert qwen2.notes == ("model_type 'qwen2' is taken by plugin 'alpha' (entry point)",)
    assert (alpha.status, alpha.families, alpha.claims) == ("overridden", ("alpha",), ())
    assert alpha.notes == (
        "takes model_type 'qwen2' from plugin 'qwen2' (in-tree)",
        "model_type 'qwen2' is taken by plugin 'beta' (path)",
    )


def test_a_family_of_the_same_name_replaces_the_earlier_one_whole(tmp_path, load, record_of):
    host = load(write_family(tmp_path, "mine", "qwen2", ["qwen2"]))
    assert host.select({}, forced="qwen2").plugin.name == "mine"
    assert host.select({"architectures": ["Qwen2ForCausalLM"]}).family.name == "generic"
    assert record_of(host, "qwen2", "in-tree").status == "overridden"


@pytest.mark.parametrize(
    ("second", "claim"),
    [
        (("other", ["shared"], []), "model_type 'shared'"),
        (("other", [], ["SharedForCausalLM"]), "architectures 'SharedForCausalLM'"),
        (("one", ["other"], []), "family 'one'"),
    ],
    ids=["model_type", "architectures", "family"],
)
def test_two_plugins_of_one_route_may_not_claim_the_same(tmp_path, second, claim, load, record_of):
    write_family(tmp_path, "a_first", "one", ["shared"], ["SharedForCausalLM"])
    write_family(tmp_path, "b_second", *second)
    host = load(tmp_path)
    assert record_of(host, "a_first").status == "active"
    record = record_of(host, "b_second")
    assert record.status == "skipped"
    assert record.error.startswith(f"Plugin 'b_second' claims {claim}, which plugin 'a_first' (path) claims already.")


def test_two_plugins_of_one_route_may_not_have_one_name(tmp_path, load):
    first = write_family(tmp_path / "a", "twin", "one")
    second = write_family(tmp_path / "b", "twin", "two")
    records = [record for record in load(first, second).records if record.origin == "path"]
    assert [record.status for record in records] == ["active", "skipped"]
    assert str(first) in records[1].error
    assert str(second) in records[1].error


@pytest.mark.parametrize(
    ("setting", "active"),
    [("llama, mine", ["llama", "mine"]), ("", []), (",", []), (None, [*IN_TREE, "mine"])],
    ids=["two", "empty", "comma", "unset"],
)
def test_edgellm_plugins_selects_by_name(tmp_path, setting, active, load):
    path = write_family(tmp_path, "mine", "mine")
    host = load(path, **({} if setting is None else {"EDGELLM_PLUGINS": setting}))
    assert [record.name for record in host.records if record.status == "active"] == ["generic", *active]
    assert host.select({}).family.name == "generic"


def test_a_deselected_plugin_is_not_imported(tmp_path, load, record_of):
    marker = tmp_path / "imported"
    path = write_plugin(tmp_path, "mine", f"open({str(marker)!r}, 'w').close()")
    assert record_of(load(path, EDGELLM_PLUGINS=""), "mine").status == "deselected"
    assert not marker.exists()


def test_selecting_an_unknown_plugin_is_an_error(load):
    with pytest.raises(UnknownNameError, match=r"Unknown plugin 'lama'\. Did you mean 'llama'"):
        load(EDGELLM_PLUGINS="lama")


def test_loading_twice_gives_the_same_classes(tmp_path, load):
    write_family(tmp_path, "mine", "mine", ["mine"])
    first, second = load(tmp_path), load(tmp_path)
    assert first.records == second.records
    for name in ("mine", "llama"):
        assert type(first.select({}, forced=name).family) is type(second.select({}, forced=name).family)


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ("family.py", True),
        ("chat_template.jinja", True),
        ("factors.json", True),
        ("table.bin", True),
        ("noending", True),
        ("__pycache__/family.pyc", False),
    ],
)
def test_the_digest_covers_code_and_data_of_any_ending(tmp_path, change, differs, load, record_of):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / change).parent.mkdir(exist_ok=True)
    (folder / change).write_text("# one\n")
    write_family(folder, "__init__", "mine")
    record = record_of(load(folder), "mine")
    before = plugin_digest(record)
    assert plugin_digest(record) == before
    (folder / change).write_text("# two\n")
    assert (plugin_digest(record) != before) is differs


def test_the_digest_of_a_single_file_is_that_file(tmp_path, load, record_of):
    one, two = (record_of(load(write_family(tmp_path, name, name)), name) for name in ("one", "two"))
    assert plugin_digest(one) != plugin_digest(two)
