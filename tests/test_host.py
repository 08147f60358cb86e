"""The plugin host: routes, precedence, isolation, selection and hooks."""

from __future__ import annotations

import inspect
import os
import re
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm_core import hookspecs
from edgellm_core.errors import PluginError, UnknownNameError
from edgellm_core.host import PluginHost, plugin_digest
from edgellm_core.host.errors import HookFailedError, HookResultError, PluginPathError, UnknownResolvedFamilyError

if TYPE_CHECKING:
    from pathlib import Path

HEADER = """
from edgellm_core.contract import ModelFamily, Target
from edgellm_core.hookspecs import hookimpl
"""
FAMILY = """
class Family(ModelFamily):
    name = {name!r}
    model_types = {model_types!r}
    architectures = {architectures!r}

@hookimpl
def edgellm_register_families():
    return [Family]
"""
IN_TREE = ["llama", "qwen2", "qwen3"]


def write_plugin(folder: Path, name: str, body: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(HEADER + body)
    return path


def write_family(folder: Path, plugin: str, name: str, model_types=(), architectures=()) -> Path:
    return write_plugin(
        folder, plugin, FAMILY.format(name=name, model_types=tuple(model_types), architectures=tuple(architectures))
    )


@pytest.fixture
def entry_points(tmp_path, monkeypatch):
    """Return a function that makes a distribution with one entry point, as pip would leave it behind."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    made = []

    def make(name, body, *, module=None, version="0.1"):
        module = module or f"entry_point_pack_{name}"
        write_plugin(site, module.partition(":")[0], body)
        metadata = site / f"pack_{name}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: pack-{name}\nVersion: {version}\n")
        (metadata / "entry_points.txt").write_text(f"[edgellm]\n{name} = {module}\n")
        made.append(module.partition(":")[0])

    yield make
    for module in made:
        sys.modules.pop(module, None)


def load(*paths: Path, **environ: str) -> PluginHost:
    return PluginHost.load(paths, environ)


def record_of(host: PluginHost, name: str, origin: str = "path"):
    return next(record for record in host.records if (record.name, record.origin) == (name, origin))


def test_in_tree_folders_are_found_by_scanning():
    host = load()
    assert [(record.name, record.status) for record in host.records if record.origin == "in-tree"] == [
        (name, "active") for name in IN_TREE
    ]
    assert host.family_names() == ["generic", *IN_TREE]


def test_records_say_where_a_plugin_came_from(tmp_path, entry_points):
    entry_points("alpha", FAMILY.format(name="alpha", model_types=("alpha",), architectures=()), version="2.5")
    path = write_family(tmp_path, "beta", "beta", ["beta"])
    path.write_text("__version__ = '7.0'\n" + path.read_text())
    host = load(path)
    alpha, beta = record_of(host, "alpha", "entry point"), record_of(host, "beta")
    assert (alpha.version, alpha.families, alpha.status) == ("2.5", ("alpha",), "active")
    assert (beta.version, beta.location, [str(claim) for claim in beta.claims]) == ("7.0", path, ["model_type 'beta'"])


@pytest.mark.parametrize("layout", ["file", "package", "folder of both"])
def test_a_path_is_a_file_a_package_or_a_folder_of_them(tmp_path, layout):
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


def test_the_environment_names_folders_and_a_folder_named_twice_counts_once(tmp_path):
    write_family(tmp_path / "a", "alpha", "alpha")
    write_family(tmp_path / "b", "beta", "beta")
    both = os.pathsep.join([str(tmp_path / "a"), str(tmp_path / "b")])
    host = load(tmp_path / "a", EDGELLM_PLUGIN_PATH=both)
    assert [record.name for record in host.records if record.origin == "path"] == ["alpha", "beta"]


@pytest.mark.parametrize(
    ("name", "problem"), [("missing", "does not exist"), ("empty", "holds no plugin"), ("notes.txt", "not a Python")]
)
def test_a_path_without_plugins_is_refused(tmp_path, name, problem):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(PluginPathError, match=f"{name}' .*{problem}"):
        load(tmp_path / name)


BROKEN = {
    "import": ("import library_that_nobody_installed", "can't be imported: ModuleNotFoundError: No module named"),
    "exit": ("raise SystemExit(3)", "can't be imported: SystemExit: 3"),
    "syntax": ("def broken(:", "can't be imported: SyntaxError"),
    "no hook": ("", "implements no hook"),
    "unknown hook": (
        "@hookimpl\ndef edgellm_register_familys(): return []",
        "unknown hook 'edgellm_register_familys'. Did you mean 'edgellm_register_families'",
    ),
    "unmarked": ("def edgellm_register_families(): return []", "edgellm_register_families is not marked"),
    "arguments": (
        "@hookimpl\ndef edgellm_before_stage(stage, colour): pass",
        "edgellm_before_stage has no argument 'colour'. It may take: stage, settings",
    ),
    "None": (
        "@hookimpl\ndef edgellm_register_families(): pass",
        "must return a sequence of ModelFamily subclasses; got None",
    ),
    "not a family": ("@hookimpl\ndef edgellm_register_families(): return ['llama']", "subclasses; got 'llama'"),
    "not a sequence": ("@hookimpl\ndef edgellm_register_families(): return 'llama'", "subclasses; got 'llama'"),
    "raises": (
        "@hookimpl\ndef edgellm_register_families(): raise RuntimeError('boom')",
        "failed in edgellm_register_families: RuntimeError: boom",
    ),
    "no name": ("class Family(ModelFamily):\n    model_types = ('x',)", "ModelFamily Family in .* needs a name"),
    "claims as string": (
        FAMILY.format(name="x", model_types=(), architectures=()).replace("model_types = ()", "model_types = 'x'"),
        "model_types must be a tuple of non-empty strings; got 'x'",
    ),
    "newer contract": (
        FAMILY.format(name="x", model_types=(), architectures=()) + "Family.contract = 2",
        "family 'x' needs plugin contract 2; this edgellm has 1. Upgrade edgellm",
    ),
    "older contract": (
        FAMILY.format(name="x", model_types=(), architectures=()) + "Family.contract = 0",
        "needs plugin contract 0; this edgellm has 1. Upgrade the plugin",
    ),
    "transformers": (
        FAMILY.format(name="x", model_types=(), architectures=()) + "Family.transformers = '>=99'",
        "needs transformers >=99; .* is installed",
    ),
    "specifier": (
        FAMILY.format(name="x", model_types=(), architectures=()) + "Family.transformers = '5.x.y'",
        "has transformers = '5.x.y'",
    ),
    "constructor": (
        FAMILY.format(name="x", model_types=(), architectures=())
        + "def needs(self, size): pass\nFamily.__init__ = needs",
        "can't be made without arguments",
    ),
    "repeated claim": (
        FAMILY.format(name="x", model_types=("x", "x"), architectures=()),
        "claims model_type 'x' twice",
    ),
    "core's name": (
        FAMILY.format(name="generic", model_types=(), architectures=()),
        r"claims family 'generic', which plugin 'generic' \(core\) claims already",
    ),
    "target": (
        "class T(Target): pass\n@hookimpl\ndef edgellm_register_targets(): return [T]",
        "must return a sequence of Target subclasses with a name; got <class",
    ),
    "command": (
        "@hookimpl\ndef edgellm_register_commands(): return [print]",
        "must return a sequence of click commands with a name; got <built-in",
    ),
}


@pytest.mark.parametrize(("body", "error"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_is_named_and_skipped_and_the_others_work(tmp_path, body, error):
    write_plugin(tmp_path, "bad", body)
    write_family(tmp_path, "good", "good", ["good"])
    host = load(tmp_path)
    bad = record_of(host, "bad")
    assert (bad.status, bad.families, bad.claims) == ("skipped", (), ())
    assert re.search(error, bad.error), bad.error
    assert host.select({"model_type": "good"}).family.name == "good"
    assert host.select({"model_type": "qwen3"}).family.name == "qwen3"


def test_a_plugin_that_failed_leaves_no_hook_behind(tmp_path):
    body = "@hookimpl\ndef edgellm_before_stage(): raise RuntimeError\n"
    write_plugin(tmp_path, "bad", body + "@hookimpl\ndef edgellm_register_families(): return 3")
    load(tmp_path).before_stage("trace", {})


def test_an_entry_point_that_names_no_module_is_skipped(entry_points):
    entry_points("epsilon", "thing = 3", module="entry_point_pack_epsilon:thing")
    error = record_of(load(), "epsilon", "entry point").error
    assert error == (
        "Plugin 'epsilon' can't be imported: Plugin 'epsilon': its entry point must name a module; "
        "'entry_point_pack_epsilon:thing' is a int. Write 'entry_point_pack_epsilon'."
    )


def test_later_routes_win_claims_and_the_records_say_so(tmp_path, entry_points):
    entry_points("alpha", FAMILY.format(name="alpha", model_types=("qwen2",), architectures=()))
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


def test_a_family_of_the_same_name_replaces_the_earlier_one_whole(tmp_path):
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
def test_two_plugins_of_one_route_may_not_claim_the_same(tmp_path, second, claim):
    write_family(tmp_path, "a_first", "one", ["shared"], ["SharedForCausalLM"])
    write_family(tmp_path, "b_second", *second)
    host = load(tmp_path)
    assert record_of(host, "a_first").status == "active"
    record = record_of(host, "b_second")
    assert record.status == "skipped"
    assert record.error.startswith(f"Plugin 'b_second' claims {claim}, which plugin 'a_first' (path) claims already.")


def test_two_plugins_of_one_route_may_not_have_one_name(tmp_path):
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
def test_edgellm_plugins_selects_by_name(tmp_path, setting, active):
    path = write_family(tmp_path, "mine", "mine")
    host = load(path, **({} if setting is None else {"EDGELLM_PLUGINS": setting}))
    assert [record.name for record in host.records if record.status == "active"] == ["generic", *active]
    assert host.select({}).family.name == "generic"


def test_a_deselected_plugin_is_not_imported(tmp_path):
    marker = tmp_path / "imported"
    path = write_plugin(tmp_path, "mine", f"open({str(marker)!r}, 'w').close()")
    assert record_of(load(path, EDGELLM_PLUGINS=""), "mine").status == "deselected"
    assert not marker.exists()


def test_selecting_an_unknown_plugin_is_an_error():
    with pytest.raises(UnknownNameError, match=r"Unknown plugin 'lama'\. Did you mean 'llama'"):
        load(EDGELLM_PLUGINS="lama")


SELECTIONS = {
    "architectures": (
        {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
        "llama",
        "architectures says 'LlamaForCausalLM', which plugin 'llama' claims",
    ),
    "architectures decides": (
        {"architectures": ["LlamaForCausalLM"], "model_type": "qwen2"},
        "llama",
        (
            "architectures says 'LlamaForCausalLM', which plugin 'llama' claims; "
            "it decides over model_type 'qwen2', which plugin 'qwen2' claims"
        ),
    ),
    "model_type": ({"model_type": "qwen3"}, "qwen3", "model_type says 'qwen3', which plugin 'qwen3' claims"),
    "unclaimed architecture": (
        {"architectures": ["MyForCausalLM"], "model_type": "qwen3"},
        "qwen3",
        "model_type says 'qwen3', which plugin 'qwen3' claims; nobody claims 'MyForCausalLM'",
    ),
    "second architecture": (
        {"architectures": ["MyForCausalLM", "Qwen2ForCausalLM"]},
        "qwen2",
        "architectures says 'Qwen2ForCausalLM', which plugin 'qwen2' claims",
    ),
    "generic": (
        {"architectures": ["MyForCausalLM"], "model_type": "my"},
        "generic",
        "no plugin claims 'MyForCausalLM', 'my'",
    ),
    "nothing": ({"architectures": None}, "generic", "config.json has neither architectures nor model_type"),
    "exactly": ({"model_type": "Llama"}, "generic", "no plugin claims 'Llama'"),
}


@pytest.mark.parametrize(("config", "family", "reason"), SELECTIONS.values(), ids=SELECTIONS)
def test_selection_follows_the_claims_and_says_why(config, family, reason):
    selection = load().select(config)
    assert (selection.family.name, selection.reason) == (family, reason)
    assert family in selection.plugin.families


names = st.sampled_from(["llama", "LlamaForCausalLM", "Qwen3ForCausalLM", "qwen", "", "ForCausalLM"])
scalars = st.none() | st.booleans() | st.integers(-2, 2) | names
json_values = scalars | st.lists(scalars | st.lists(scalars, max_size=2), max_size=3) | st.dictionaries(names, scalars)
HOST = load()


@given(st.fixed_dictionaries({}, optional={"architectures": json_values, "model_type": json_values}))
def test_any_config_has_a_family_and_nearest_names_exist(config):
    assert HOST.select(config).family.name in HOST.family_names()
    assert set(HOST.nearest(config)) <= {*IN_TREE}


def test_a_forced_family_wins_over_the_claims():
    assert load().select({"model_type": "llama"}, forced="qwen3").family.name == "qwen3"
    assert load().select({"model_type": "llama"}, forced="generic").family.name == "generic"


def test_forcing_an_unknown_family_suggests_one():
    with pytest.raises(UnknownNameError, match=r"Unknown family 'qwn3'\. Did you mean 'qwen3'"):
        load().select({}, forced="qwn3")


@pytest.mark.parametrize(
    ("config", "nearest"),
    [
        ({"model_type": "llama4", "architectures": ["Llama4ForCausalLM"]}, ["llama"]),
        ({"model_type": "qwen3_moe"}, ["qwen3"]),
        ({"model_type": "qwen"}, ["qwen2", "qwen3"]),
        ({"architectures": ["xLSTMForCausalLM"]}, []),  # shares only the suffix ForCausalLM
        ({}, []),
    ],
    ids=["llama4", "qwen3_moe", "qwen", "suffix", "empty"],
)
def test_nearest_families_of_an_unclaimed_config(config, nearest):
    assert load().nearest(config) == nearest


RESOLVE = "@hookimpl\ndef edgellm_resolve_family(config, directory):\n    {body}\n"


def test_a_plugin_resolves_an_odd_checkpoint_before_the_claims(tmp_path):
    body = RESOLVE.format(body="return 'qwen3' if (directory / 'odd').exists() else None")
    host = load(write_plugin(tmp_path, "odd", body))
    assert host.select({"model_type": "llama"}, directory=tmp_path).family.name == "llama"
    (tmp_path / "odd").touch()
    selection = host.select({"model_type": "llama"}, directory=tmp_path)
    assert (selection.family.name, selection.plugin.name) == ("qwen3", "qwen3")
    assert selection.reason == "plugin 'odd' resolves this checkpoint to family 'qwen3'"


def test_the_first_answer_decides_and_later_plugins_are_asked_first(tmp_path):
    write_plugin(tmp_path, "a", RESOLVE.format(body="raise RuntimeError('never asked')"))
    write_plugin(tmp_path, "b", RESOLVE.format(body="return 'qwen2'"))
    write_plugin(tmp_path, "c", RESOLVE.format(body="return None"))
    assert load(tmp_path).resolve_family({}) == ("b", "qwen2")


def test_resolving_to_a_family_that_is_not_there_names_the_plugin(tmp_path):
    host = load(write_plugin(tmp_path, "odd", RESOLVE.format(body="return 'none_such'")))
    with pytest.raises(UnknownResolvedFamilyError, match="Plugin 'odd' resolves the checkpoint to family 'none_such'"):
        host.select({})


STAGES = """
calls = []

@hookimpl
def edgellm_before_stage(stage, settings):
    calls.append(("before", stage, settings["precision"]))

@hookimpl
def edgellm_after_stage(stage, seconds):
    calls.append(("after", stage, seconds))

@hookimpl
def edgellm_stage_failed(stage, error):
    calls.append(("failed", stage, str(error)))
"""


def test_stage_hooks_are_told(tmp_path):
    path = write_plugin(tmp_path, "watcher", STAGES)
    host = load(path)
    settings = {"precision": "fp16"}
    host.before_stage("trace", settings)
    host.after_stage("trace", settings, 1.5)
    host.stage_failed("bind", settings, ValueError("full disk"))
    module = next(module for module in sys.modules.values() if getattr(module, "__file__", None) == str(path))
    assert module.calls == [("before", "trace", "fp16"), ("after", "trace", 1.5), ("failed", "bind", "full disk")]


@pytest.mark.parametrize(
    ("hook", "call"),
    [
        ("edgellm_before_stage", lambda host: host.before_stage("trace", {})),
        ("edgellm_after_stage", lambda host: host.after_stage("trace", {}, 1.0)),
        ("edgellm_stage_failed", lambda host: host.stage_failed("trace", {}, ValueError())),
        ("edgellm_resolve_family", lambda host: host.select({})),
        ("edgellm_register_rules", lambda host: host.rules()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_hook_that_fails_during_a_build_names_its_plugin(tmp_path, hook, call):
    host = load(write_plugin(tmp_path, "bad", f"@hookimpl\ndef {hook}(): raise ValueError('no colour')"))
    with pytest.raises(HookFailedError, match=f"Plugin 'bad' failed in {hook}: ValueError: no colour") as caught:
        call(host)
    assert isinstance(caught.value, PluginError)
    assert isinstance(caught.value.__cause__, ValueError)


def test_targets_commands_and_rules_are_collected(tmp_path):
    body = """
import click

class Board(Target):
    name = "board"

class BoardRule:
    def expected(self, dims): return 0

@hookimpl
def edgellm_register_targets(): return [Board]

@hookimpl
def edgellm_register_commands(): return [click.Command("flash")]

@hookimpl
def edgellm_register_rules(): return [BoardRule()]
"""
    host = load(write_plugin(tmp_path, "board", body))
    assert [(name, target.name) for name, target in host.targets().items()] == [("board", "board")]
    assert [(name, command.name) for name, command in host.commands().items()] == [("flash", "flash")]
    assert [type(rule).__name__ for rule in host.rules()] == ["BoardRule"]
    assert load().rules() == []


def test_a_rule_class_in_place_of_an_instance_is_refused(tmp_path):
    body = "class R:\n    def expected(self): ...\n@hookimpl\ndef edgellm_register_rules(): return [R]"
    host = load(write_plugin(tmp_path, "bad", body))
    with pytest.raises(HookResultError, match="edgellm_register_rules must return a sequence of Rule instances"):
        host.rules()


def test_loading_twice_gives_the_same_classes(tmp_path):
    write_family(tmp_path, "mine", "mine", ["mine"])
    first, second = load(tmp_path), load(tmp_path)
    assert first.records == second.records
    for name in ("mine", "llama"):
        assert type(first.select({}, forced=name).family) is type(second.select({}, forced=name).family)


def test_trace_prints_every_hook_call(tmp_path, capsys):
    host = load(write_plugin(tmp_path, "watcher", STAGES), EDGELLM_TRACE="1")
    host.before_stage("trace", {"precision": "fp16"})
    with pytest.raises(HookFailedError, match="watcher"):
        host.before_stage("trace", {})
    lines = capsys.readouterr().err.splitlines()
    assert "edgellm_register_families() in in-tree:llama" in lines
    assert "edgellm_before_stage(stage='trace', settings={'precision': 'fp16'}) in path:watcher" in lines
    assert "edgellm_before_stage → KeyError('precision')" in lines


def test_without_trace_nothing_is_printed(capsys):
    load()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("change", "differs"),
    [("family.py", True), ("chat_template.jinja", True), ("matrix.yaml", True), ("README.md", False)],
)
def test_the_digest_covers_code_templates_and_data(tmp_path, change, differs):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("family.py", "chat_template.jinja", "matrix.yaml", "README.md"):
        (folder / name).write_text("# one\n")
    write_family(folder, "__init__", "mine")
    record = record_of(load(folder), "mine")
    before = plugin_digest(record)
    assert plugin_digest(record) == before
    (folder / change).write_text("# two\n")
    assert (plugin_digest(record) != before) is differs


def test_the_digest_of_a_single_file_is_that_file(tmp_path):
    one, two = (record_of(load(write_family(tmp_path, name, name)), name) for name in ("one", "two"))
    assert plugin_digest(one) != plugin_digest(two)


def hooks():
    return {name: value for name, value in vars(hookspecs).items() if name.startswith("edgellm_")}


def test_there_are_at_most_ten_hooks():
    assert 0 < len(hooks()) <= 10


@pytest.mark.parametrize("hook", hooks())
def test_every_hook_is_documented_typed_and_called_by_the_host(hook):
    function = hooks()[hook]
    signature = inspect.signature(function)
    assert function.__doc__
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(parameter.annotation is not inspect.Parameter.empty for parameter in signature.parameters.values())
    assert all(f"{name}:" in function.__doc__ for name in signature.parameters)
    assert f'"{hook}"' in inspect.getsource(sys.modules["edgellm_core.host.plugin_host"])
