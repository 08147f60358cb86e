"""Families with one defect each: the kit finds it, in the check that is meant to."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow
NO_MATCH_RULE = '''
    def rules(self):
        """Return a rule that never applies."""
        from edgellm_core.surgery.rule import Rule

        class NeverApplies(Rule):
            """Nothing → nothing."""

            def match(self, node, graph):
                return False

            def rewrite(self, node, edit):
                raise AssertionError

        return (NeverApplies(),)

    def tiny_config('''
RESTLESS_RULE = '''
    def rules(self):
        """Return a rule that matches what it has written."""
        from edgellm_core.surgery.rule import Rule

        class SwapsFactors(Rule):
            """Mul(a, b) → Mul(b, a)."""

            stage = "polish"

            def match(self, node, graph):
                return node.op == "Mul"

            def rewrite(self, node, edit):
                output, = node.outputs
                node.outputs.clear()
                edit.node("Mul", [node.inputs[1], node.inputs[0]], output, name=node.name)

        return (SwapsFactors(),)

    def tiny_config('''
WRONG_SCALE = '''
    def attention_attributes(self, module, attributes):
        """Return a scale that is off by 5 %."""
        from dataclasses import replace

        return replace(attributes, scale=attributes.scale * 1.05)

    def tiny_config('''
TINY = "\n    def tiny_config("
TIER = "l0:\n"

STATIC = {
    "heavy": ("imports_are_light", {"family": [("from typing import", "import onnx\nfrom typing import")]}),
    "broken_template": ("chat_template_renders", {"chat_template": [("{% endfor -%}", "")]}),
    "deaf_template": ("chat_template_renders", {"chat_template": [('{{ message["content"] }}', "")]}),
    "shallow": ("tiny_config_is_the_familys", {"family": [('"num_hidden_layers": 3', '"num_hidden_layers": 1')]}),
    "stranger": ("tiny_config_is_the_familys", {"family": [('"model_type": "stranger"', '"model_type": "other"')]}),
    "unnamed": ("readme_names_the_claims", {"README": [("`unnamed`", "a name")]}),
    "mistyped": ("matrix_parses", {"matrix": [("mxsl64", "mxls64")]}),
}
TINY_MODEL = {
    "idle_rule": (["rule_counts"], {"family": [(TINY, NO_MATCH_RULE)]}),
    "restless_rule": (["rules_are_idempotent"], {"family": [(TINY, RESTLESS_RULE)]}),
    "wrong_scale": (
        ["parity_prefill", "parity_decode", "parity_padding", "parity_chunked"],
        {"family": [(TINY, WRONG_SCALE)]},
    ),
    "stale_xfail": (
        ["io_contract"],
        {"matrix": [(TIER, "known_failures:\n  L1-io_contract: it was wrong once\n" + TIER)]},
    ),
}


@pytest.fixture(scope="module")
def static(tmp_path_factory, write_pack_folder, kit):
    folder = tmp_path_factory.mktemp("static")
    for name, (_check, replacements) in STATIC.items():
        write_pack_folder(folder, name, **replacements)
    families = [f"--edgellm-family={name}" for name in STATIC]
    return kit(f"--edgellm-plugin-path={folder}", "--edgellm-level=0", *families)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory, write_pack_folder, kit):
    folder = tmp_path_factory.mktemp("tiny-model")
    for name, (_checks, replacements) in TINY_MODEL.items():
        write_pack_folder(folder, name, **replacements)
    families = [f"--edgellm-family={name}" for name in TINY_MODEL]
    return kit(f"--edgellm-plugin-path={folder}", *families, "-k", "L1")


def failed(outcomes, family):
    return {name.partition("-")[2] for name, outcome in outcomes.items() if name.startswith(family) if
            outcome in {"failure", "error"}}  # fmt: skip


@pytest.mark.parametrize("name", STATIC)
def test_a_static_defect_fails_its_check_alone(static, name):
    code, output, outcomes = static
    assert code == 1, output
    assert failed(outcomes, name) == {f"L0-{STATIC[name][0]}"}, output


@pytest.mark.parametrize("name", TINY_MODEL)
def test_a_defect_of_the_graph_fails_its_checks_alone(tiny_model, name):
    code, output, outcomes = tiny_model
    assert code == 1, output
    assert failed(outcomes, name) == {f"L1-{check}" for check in TINY_MODEL[name][0]}, output


def test_a_stale_xfail_says_its_reason(tiny_model):
    _code, output, _outcomes = tiny_model
    assert "[XPASS(strict)] it was wrong once" in output


def test_a_claim_that_another_plugin_took_is_not_held(tmp_path, write_pack_folder, kit):
    write_pack_folder(tmp_path, "thief", family=[('("thief",)', '("thief", "qwen3")')])
    code, output, outcomes = kit(
        f"--edgellm-plugin-path={tmp_path}", "--edgellm-level=0", "--edgellm-family=qwen3", "-k", "claims_are_held"
    )
    assert (code, outcomes) == (1, {"qwen3-L0-claims_are_held": "failure"}), output
    assert "which plugin 'edgellm_thief' claims" in output
