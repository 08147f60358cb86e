"""The files beside a graph of target ``edge-llm``: config.json of the runtime, tokenizer, chat template."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.targets.edge_llm.errors import ChatTemplateMissingError, TokenizerMissingError
from edgellm_core.targets.edge_llm.runtime_config import runtime_config
from edgellm_core.untrusted import read_json_object

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.contract import ModelFamily

EMBEDDING_FILE: Final = "embedding.safetensors"
TEMPLATE_FILE: Final = "chat_template.jinja"


def check(checkpoint: Checkpoint, family: ModelFamily) -> None:
    """Refuse a checkpoint without tokenizer or chat template before anything long.

    Raises:
        TokenizerMissingError: it has no tokenizer.
        ChatTemplateMissingError: neither it nor its family has a template.
    """
    if not checkpoint.tokenizer_files():
        raise TokenizerMissingError(checkpoint.directory)
    if _template(checkpoint.directory) is None and family.chat_template() is None:
        raise ChatTemplateMissingError(checkpoint.directory)


def write_files(model: onnx.ModelProto, checkpoint: Checkpoint, family: ModelFamily, folder: Path) -> None:
    """Replace config.json by the runtime's, and write the chat template as a file of its own.

    Raises:
        RopeNotExpressibleError: the runtime can't compute the model's angles.
        ConfigMismatchError: layers differ in what config.json has one number for.
    """
    template = _template(folder)
    if template is None:
        raise ChatTemplateMissingError(checkpoint.directory)
    (folder / TEMPLATE_FILE).write_text(template, encoding="utf-8")
    generation = folder / "generation_config.json"
    stated = read_json_object(generation) if generation.is_file() else {}
    generation.unlink(missing_ok=True)
    fields = runtime_config(model, checkpoint, family, generation=stated)
    (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def _template(directory: Path) -> str | None:
    """Return the chat template beside a tokenizer: its file, or the one in tokenizer_config.json."""
    path = directory / TEMPLATE_FILE
    if path.is_file():
        return path.read_text(encoding="utf-8")
    settings = directory / "tokenizer_config.json"
    stated: Any = read_json_object(settings).get("chat_template") if settings.is_file() else None
    if isinstance(stated, list):  # transformers 4: named templates
        stated = {item.get("name"): item.get("template") for item in stated if isinstance(item, dict)}
    if isinstance(stated, dict):
        stated = stated.get("default")
    return stated if isinstance(stated, str) and stated else None
