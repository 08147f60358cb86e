"""A plugin that can't take part is named and skipped; the others work."""

from __future__ import annotations

import re

import pytest

from edgellm_core.testing.plugin_files import family_source, write_family, write_plugin

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
        family_source("x").replace("model_types = ()", "model_types = 'x'"),
        "model_types must be a tuple of non-empty strings; got 'x'",
    ),
    "newer contract": (
        family_source("x") + "Family.contract = 2",
        "family 'x' needs plugin contract 2; this edgellm has 1. Upgrade edgellm",
    ),
    "older contract": (
        family_source("x") + "Family.contract = 0",
        "needs plugin contract 0; this edgellm has 1. Upgrade the plugin",
    ),
    "transformers": (
        family_source("x") + "Family.transformers = '>=99'",
        "needs transformers >=99; .* is installed",
    ),
    "specifier": (
        family_source("x") + "Family.transformers = '5.x.y'",
        "has transformers = '5.x.y'",
    ),
    "constructor": (
        family_source("x") + "def needs(self, size): pass\nFamily.__init__ = needs",
        "can't be made without arguments",
    ),
    "repeated claim": (
        family_source("x", ("x", "x")),
        "claims model_type 'x' twice",
    ),
    "core's name": (
        family_source("generic"),
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
def test_a_broken_plugin_is_named_and_skipped_and_the_others_work(tmp_path, body, error, load, record_of):
    write_plugin(tmp_path, "bad", body)
    write_family(tmp_path, "good", "good", ["good"])
    host = load(tmp_path)
    bad = record_of(host, "bad")
    assert (bad.status, bad.families, bad.claims) == ("skipped", (), ())
    assert re.search(error, bad.error), bad.error
    assert host.select({"model_type": "good"}).family.name == "good"
    assert host.select({"model_type": "qwen3"}).family.name == "qwen3"


def test_a_plugin_that_failed_leaves_no_hook_behind(tmp_path, load):
    body = "@hookimpl\ndef edgellm_before_stage(): raise RuntimeError\n"
    write_plugin(tmp_path, "bad", body + "@hookimpl\ndef edgellm_register_families(): return 3")
    load(tmp_path).before_stage("trace", {})


def test_an_entry_point_that_names_no_module_is_skipped(entry_points, load, record_of):
    entry_points("epsilon", "thing = 3", module="entry_point_pack_epsilon:thing")
    error = record_of(load(), "epsilon", "entry point").error
    assert error == (
        "Plugin 'epsilon': its entry point must name a module; "
        "'entry_point_pack_epsilon:thing' is of type int. Write 'entry_point_pack_epsilon'."
    )
