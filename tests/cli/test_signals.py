"""Ctrl-C and SIGTERM: exit code, one sentence, and a work directory that the next build goes on from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgellm_core.cli.signals import sentence_of_stop
from edgellm_core.errors import STAGE, Stopped
from edgellm_core.testing.checkpoints import write_tiny_checkpoint

EDGELLM = Path(sys.executable).with_name("edgellm")
LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 131, "hidden_size": 96,
    "intermediate_size": 112, "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}  # fmt: skip


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("signals") / "llama", LLAMA)


def start(command, source, out, cache):
    arguments = [EDGELLM, command, source, "-o", out, "--json", *(("--engine", "none") if command == "build" else ())]
    environment = {**os.environ, "EDGELLM_CACHE": str(cache)}
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stop_at(process, stage, number):
    """Send a signal when a stage begins; return exit code and what was written to stderr."""
    for line in process.stdout:
        event = json.loads(line)
        if event.get("stage") == stage and event["event"] == "start":
            process.send_signal(number)
            break
    errors = process.communicate(timeout=120)[1]
    return process.returncode, errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "stage"),
    [(signal.SIGINT, 130, "verify"), (signal.SIGTERM, 143, "verify"), (signal.SIGINT, 130, "trace")],
)
def test_a_stopped_build_says_so_and_is_gone_on_with(llama, tmp_path, number, code, stage):
    out = tmp_path / "out"
    found, errors = stop_at(start("build", llama, out, tmp_path / "cache"), stage, number)
    assert found == code
    sentence = f"Stopped in stage {stage}; the next build with the same output goes on from there."
    assert errors.strip().splitlines()[-1] == sentence
    assert "Traceback" not in errors
    assert not out.exists()
    again = start("build", llama, out, tmp_path / "cache")
    output, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    events = [json.loads(line) for line in output.splitlines()]
    cached = [event["stage"] for event in events if event.get("event") == "cached"]
    assert cached[:1] == ["tokenizer"]
    assert ("bind" in cached) == (stage == "verify")
    left = [path.name for path in tmp_path.iterdir() if path.name.startswith(".edgellm-work")]
    assert left == []


@pytest.mark.parametrize(
    ("command", "stage", "sentence"),
    [
        ("edgellm build", "bind", "Stopped in stage bind; the next build with the same output goes on from there."),
        ("edgellm quantize", "quantize", "Stopped in stage quantize; the next quantize with the same output goes on"),
        ("edgellm verify", "verify", "Stopped in stage verify."),
        ("edgellm build", None, "Stopped."),
        ("edgellm run", None, "Stopped."),
    ],
)
def test_only_what_is_kept_is_promised(command, stage, sentence):
    stop = Stopped(signal.SIGINT)
    if stage:
        setattr(stop, STAGE, stage)
    assert sentence_of_stop(stop, command).startswith(sentence)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_plugin_can_t_swallow_it(tmp_path, number, code):
    (tmp_path / "pack.py").write_text(
        "import os\nfrom edgellm_core.hookspecs import hookimpl\n\n@hookimpl\ndef edgellm_register_families():\n"
        f"    os.kill(os.getpid(), {int(number)})\n    return []\n"
    )
    command = [EDGELLM, "plugins", "list", "--plugin-path", tmp_path / "pack.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (code, "Stopped.")
