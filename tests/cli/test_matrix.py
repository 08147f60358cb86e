"""``edgellm matrix``."""

from __future__ import annotations

import json
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from edgellm_core.cli import edgellm, main
from edgellm_core.errors import UnknownNameError
from edgellm_core.matrix.errors import EntriesFailedError, NothingRanError
from edgellm_core.testing.plugin_files import HEADER

MINE = """
class Mine(ModelFamily):
    name = "mine"
    def tiny_config(self):
        return {
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 64, "hidden_size": 32,
            "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
            "head_dim": 16, "max_position_embeddings": 64,
        }

@hookimpl
def edgellm_register_families():
    return [Mine]
"""
MATRIX = """\
l0:
  - tiny-fp32-mxsl64
  - entry: tiny-fp32-mxsl65
    xfail: the context is shorter
  - tiny-fp32-lora
l1:
  - tiny-fp32-mxsl66
"""


@pytest.fixture
def pack(tmp_path):
    folder = tmp_path / "pack"
    folder.mkdir()
    (folder / "__init__.py").write_text(HEADER + MINE)
    (folder / "matrix.yaml").write_text(MATRIX)
    return folder


@pytest.fixture
def invoke(pack):
    """Return a function that runs a subcommand on the family of the pack."""

    def run(command, *arguments):
        arguments = ["matrix", command, "--plugin-path", pack, "--family", "mine", *arguments]
        return CliRunner().invoke(edgellm, [str(argument) for argument in arguments])

    return run


def test_list_says_what_is_ready_and_what_is_not(invoke):
    lines = [line.strip().split(maxsplit=3) for line in invoke("list").output.splitlines()]
    assert lines == [
        ["family", "tier", "entry", "state"],
        ["mine", "l0", "tiny-fp32-mxsl64", "ready"],
        ["mine", "l0", "tiny-fp32-mxsl65", "expected to fail: the context is shorter"],
        ["mine", "l0", "tiny-fp32-lora", "not yet: LoRA adapters (lora)"],
        ["mine", "l1", "tiny-fp32-mxsl66", "ready"],
    ]


def test_list_as_json(invoke):
    listed = json.loads(invoke("list", "--tier", "l0", "--json").output)
    assert listed[2] == {
        "family": "mine", "tier": "l0", "entry": "tiny-fp32-lora", "xfail": None, "not_yet": ["LoRA adapters (lora)"],
    }  # fmt: skip
    assert len(listed) == 3


def test_list_imports_nothing_heavy():
    heavy = ("torch", "transformers", "onnx", "onnx_graphsurgeon", "onnxruntime", "tensorrt", "tensorrt_rtx")
    probe = "import sys; from edgellm_core.cli import edgellm; edgellm(['matrix', 'list'], standalone_mode=False);"
    probe += f"sys.exit(' '.join(name for name in {heavy!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_list_of_all_families_has_those_of_the_tree():
    listed = json.loads(CliRunner().invoke(edgellm, ["matrix", "list", "--json"]).output)
    assert {"llama", "qwen2", "qwen3"} <= {entry["family"] for entry in listed}


def test_run_builds_tier_l0_and_writes_junit_in_the_order_of_the_files(invoke, tmp_path):
    result = invoke("run", "--jobs", 2, "--junit", tmp_path / "junit.xml")
    assert result.exit_code == 0, result.output
    assert sorted(line.split()[:3] for line in result.output.splitlines() if " mine " in line) == [
        ["passed", "mine", "tiny-fp32-mxsl64"],
        ["skipped", "mine", "tiny-fp32-lora"],
        ["xfailed", "mine", "tiny-fp32-mxsl65"],
    ]
    assert "max relative error" in result.output
    assert "1 passed, 1 skipped, 1 xfailed." in result.output
    cases = ET.parse(tmp_path / "junit.xml").iter("testcase")
    assert [case.get("name") for case in cases] == ["tiny-fp32-mxsl64", "tiny-fp32-mxsl65", "tiny-fp32-lora"]


def test_run_as_json_prints_one_object_an_entry_and_fails_with_the_entry(invoke, tmp_path):
    result = invoke("run", "--tier", "l1", "--json", "--junit", tmp_path / "junit.xml")
    (line,) = result.stdout.splitlines()
    told = json.loads(line)
    assert (told["family"], told["entry"], told["tier"]) == ("mine", "tiny-fp32-mxsl66", "l1")
    assert told["outcome"] == "failed"
    assert "--max-seq-len must not exceed the model's context of 64 tokens; got 66." in told["message"]
    assert isinstance(result.exception, EntriesFailedError)
    assert str(result.exception) == "1 of 1 entries failed: mine tiny-fp32-mxsl66."
    assert ET.parse(tmp_path / "junit.xml").getroot().get("failures") == "1"


@pytest.mark.parametrize("entry", ["tiny-fp32-lora", "tiny-int4_gptq-mxsl8"], ids=["in a file", "in none"])
def test_a_run_that_skips_everything_fails(invoke, entry):
    result = invoke("run", "--entry", entry)
    assert isinstance(result.exception, NothingRanError)
    assert str(result.exception) == f"Nothing was tested: every entry was skipped (mine {entry})."


def test_an_unknown_tier_is_refused(invoke):
    assert isinstance(invoke("list", "--tier", "l9").exception, UnknownNameError)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "--tier", "l9"], "Unknown tier 'l9'. Available: l0, l1."),
        (["run", "--family", "qwn3"], "Unknown family 'qwn3'. Did you mean 'qwen3'?"),
        (["run", "--entry", "tiny-fp16-mxls64"], "unknown token 'mxls64'. Did you mean 'mxsl64'?"),
        (["run", "--engine", "tensort"], "Unknown engine 'tensort'. Did you mean 'tensorrt'?"),
        (["run", "--jobs", "0"], "--jobs must be at least 1; got 0."),
        (["run", "--scheduler", "nonsense"], "--scheduler nonsense must be the address"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_1(monkeypatch, capsys, arguments, said):
    monkeypatch.setattr(sys, "argv", ["edgellm", "matrix", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    output = capsys.readouterr()
    assert "Traceback" not in output.err
    assert f"Error: {said}" in output.err or f"Error: Entry 'tiny-fp16-mxls64': {said}" in output.err


def test_list_takes_several_families_and_cuts_no_line_of_a_file():
    result = CliRunner().invoke(edgellm, ["matrix", "list", "--family", "llama", "--family", "qwen3"])
    lines = result.output.splitlines()
    assert {line.split()[0] for line in lines[1:]} == {"llama", "qwen3"}
    assert all(len(line.split()) > 3 for line in lines)  # family, tier, entry and state on one line
