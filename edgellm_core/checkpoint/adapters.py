"""Folders of adapters (PEFT): weights that are added to a base model's, and no model by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgellm_core.checkpoint.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

ADAPTER_CONFIG: Final = "adapter_config.json"


def refuse_adapter(directory: Path, names: Collection[str]) -> None:
    """Refuse a folder that holds an adapter, whether or not a config.json lies beside it.

    With PEFT installed, transformers loads base and adapter from such a folder, and not what else lies in it.

    Args:
        directory: the folder.
        names: names of the files in it.

    Raises:
        AdapterError: naming the base model and how to merge.
        CorruptJsonError: adapter_config.json does not parse.
    """
    if ADAPTER_CONFIG not in names:
        return
    from edgellm_core.untrusted import read_json_object

    described = read_json_object(directory / ADAPTER_CONFIG)
    weights = sorted(n for n in names if n.endswith(".safetensors") and not n.startswith("adapter_"))
    base, kind = described.get("base_model_name_or_path"), described.get("peft_type")
    raise AdapterError(
        str(directory),
        base=base if isinstance(base, str) and base else None,
        kind=kind if isinstance(kind, str) else "LORA",
        weights=weights[:1],
    )
