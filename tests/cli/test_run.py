from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from edgellm_core.bundle.errors import DamagedBundleError, NotABundleError
from edgellm_core.cli import edgellm
from edgellm_core.errors import InvalidSettingError
from edgellm_core.runtime import generate_text
from edgellm_core.testing.decoder_bundle import write_decoder_bundle

PROMPT = "the capital of France is"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_decoder_bundle(tmp_path_factory.mktemp("root") / "bundle")


def invoke(*arguments):
    return CliRunner().invoke(edgellm, ["run", *map(str, arguments)])


def test_text_goes_to_stdout_and_speed_to_stderr(bundle):
    result = invoke(bundle.directory, PROMPT, "--max-new-tokens", 6)
    assert result.exit_code == 0, result.exception
    assert result.stdout == generate_text(bundle, PROMPT, max_new_tokens=6).text + "\n"
    assert re.fullmatch(r"6 tokens, [\d.]+ tokens/s \(prompt: 5 tokens in [\d.]+ s\)\n", result.stderr)


def test_json_is_one_object(bundle):
    result = invoke(bundle.directory, PROMPT, "--max-new-tokens", 6, "--json")
    answer = json.loads(result.stdout)
    expected = generate_text(bundle, PROMPT, max_new_tokens=6)
    assert (answer["text"], answer["tokens"]) == (expected.text, list(expected.tokens))
    assert (answer["finish_reason"], answer["prompt_tokens"]) == ("length", 5)
    assert answer["tokens_per_second"] > 0
    assert result.stderr == ""


def test_chat_and_sampling_options_are_passed_on(bundle):
    sampled = ("--temperature", 1.5, "--top-k", 20, "--top-p", 0.95, "--repetition-penalty", 1.2, "--seed", 4)
    arguments = (bundle.directory, "hello world", "--chat", "--system", "the model", "--max-new-tokens", 8, "--json")
    first, second = (json.loads(invoke(*arguments, *sampled).stdout) for _ in range(2))
    assert first["tokens"] == second["tokens"]
    assert first["prompt_tokens"] == 4
    assert first["tokens"] != json.loads(invoke(*arguments).stdout)["tokens"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--system", "Be brief"), r"--system needs the chat template"),
        (("--top-k", 5), r"--top-k has no effect on greedy answers"),
        (("--temperature", -1), r"--temperature must be at least 0"),
    ],
)
def test_bad_settings_are_one_sentence(bundle, arguments, message):
    with pytest.raises(InvalidSettingError, match=message):
        raise invoke(bundle.directory, PROMPT, *arguments).exception


def test_missing_and_damaged_bundles_are_refused(tmp_path):
    with pytest.raises(NotABundleError, match="is not an edgellm bundle"):
        raise invoke(tmp_path, PROMPT).exception
    bundle = write_decoder_bundle(tmp_path / "bundle")
    data = bundle.model_path.with_name("model.onnx.data")
    content = bytearray(data.read_bytes())
    content[-2] ^= 1
    data.write_bytes(content)
    with pytest.raises(DamagedBundleError, match=r"'llm/model\.onnx\.data' of the bundle .* was changed or damaged"):
        raise invoke(bundle.directory, PROMPT).exception
    assert invoke(bundle.directory, PROMPT, "--no-check").exit_code == 0


def test_command_imports_neither_torch_nor_transformers(bundle):
    code = (
        "import sys; from edgellm_core.cli import edgellm; "
        f"edgellm(['run', {str(bundle.directory)!r}, {PROMPT!r}, '--max-new-tokens', '2'], standalone_mode=False); "
        "sys.exit(', '.join({'torch', 'transformers'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n")


def test_errors_have_no_traceback(tmp_path):
    code = "from edgellm_core.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", str(tmp_path), PROMPT], check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) == 1
