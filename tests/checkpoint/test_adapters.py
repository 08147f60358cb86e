"""Folders of adapters are told from models, with and without a config.json."""

from __future__ import annotations

import json
import re

import pytest

from edgellm_core.checkpoint.adapters import refuse_adapter
from edgellm_core.checkpoint.errors import AdapterError
from edgellm_core.checkpoint.json_files import read_config
from edgellm_core.checkpoint.shards import check_weight_files
from edgellm_core.untrusted.errors import CorruptJsonError


@pytest.mark.parametrize(("described", "message"), [
    ({"peft_type": "LORA", "base_model_name_or_path": "a/b"}, r"is a LoRA adapter of a/b, no model\. Merge it"),
    ({"base_model_name_or_path": ""}, "is a LoRA adapter of another model"),
    ({"peft_type": "IA3", "base_model_name_or_path": ["a"]}, "is an IA3 adapter of another model"),
    ({"peft_type": "P_TUNING"}, "is a P_TUNING adapter .* no weights that could be merged"),
    ({"peft_type": 3}, "is a LoRA adapter"),
])  # fmt: skip
@pytest.mark.parametrize("config", [True, False])
def test_an_adapter_is_named(tmp_path, described, message, config):
    (tmp_path / "adapter_config.json").write_text(json.dumps(described))
    if config:
        (tmp_path / "config.json").write_text("{}")
    with pytest.raises(AdapterError, match=message):
        read_config(tmp_path)


def test_a_repository_of_an_adapter_is_named():
    with pytest.raises(AdapterError, match="'owner/name' is a LoRA adapter of another model"):
        check_weight_files("owner/name", {"adapter_config.json", "adapter_model.safetensors"})


def test_a_damaged_description_is_named(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(CorruptJsonError, match="not valid JSON"):
        refuse_adapter(tmp_path, ["adapter_config.json"])


def test_the_command_is_python(tmp_path):
    """Run by hand with PEFT 0.21.2: the merged model is built and verified."""
    error = AdapterError("some/adapter", base="a/b")
    command = re.search(r"run Python with: (.*\)); copy", str(error))[1]
    compile(command, "remedy", "exec")
    assert "save_pretrained('some/adapter-merged')" in command
