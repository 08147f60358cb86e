"""Which settings of a checkpoint change the tokens that ``generate`` chooses without sampling, and who applies them.

transformers takes them from generation_config.json, or from config.json where that file is missing
(``GenerationConfig.from_pretrained`` and ``from_model_config``). They are read here by code of our own; verification
compares what comes of them with what ``generate`` itself does.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.bundle.manifest import RuntimeRecord
from edgellm_core.runtime.errors import GenerationSettingError
from edgellm_core.runtime.logits_processors import PROCESSORS
from edgellm_core.untrusted import read_json_object

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

GENERATION_CONFIG: Final = "generation_config.json"

NOT_APPLIED: Final[Mapping[str, tuple[Any, ...]]] = {
    "cache_implementation": ("dynamic", "dynamic_full", "hybrid", "hybrid_chunked", "offloaded", "offloaded_hybrid",
        "offloaded_hybrid_chunked", "offloaded_static", "sliding_window", "static"),
    "constraints": (),
    "diversity_penalty": (0,),
    "dola_layers": (),
    "force_words_ids": (),
    "guidance_scale": (1,),
    "max_time": (),
    "num_beam_groups": (1,),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "penalty_alpha": (0,),
    "stop_strings": (),
    "token_healing": (False,),
    "use_cache": (True,),
    "watermarking_config": (),
}  # fmt: skip
"""Setting that would change the answer and that ``edgellm run`` does not apply → values that change nothing."""

NO_EFFECT: Final[Mapping[str, tuple[Any, ...]]] = {
    "bad_words_ids": ([],),
    "begin_suppress_tokens": ([],),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "remove_invalid_values": (False,),
    "repetition_penalty": (1,),
    "sequence_bias": ([],),
    "suppress_tokens": ([],),
}
"""Setting that is applied → values that change nothing."""


def runtime_record(folder: Path, *, reread_at: int | None = None) -> RuntimeRecord:
    """Return what a runtime of a checkpoint has to do.

    Args:
        folder: the checkpoint, with its config.json.
        reread_at: number of tokens at which everything is read again; None for never.

    Raises:
        GenerationSettingError: a setting is none that ``generate`` takes.
        CorruptJsonError: generation_config.json is no JSON object.
    """
    stated = read_generation_config(folder)
    if not _are_ids(stated.get("eos_token_id", [])):
        raise GenerationSettingError(folder, "eos_token_id", "a token id, or a list of such", stated["eos_token_id"])
    settings: dict[str, Any] = {}
    for name, (fits, wanted, _make) in PROCESSORS.items():
        value = stated.get(name)
        if value is None or value in NO_EFFECT.get(name, ()):
            continue
        if not fits(value):
            raise GenerationSettingError(folder, name, wanted, value)
        settings[name] = value
    return RuntimeRecord(
        reread_at=reread_at,
        stop_tokens=stop_tokens(stated),
        settings=settings,
        not_applied={
            name: stated[name]
            for name, neutral in NOT_APPLIED.items()
            if stated.get(name) is not None and stated[name] not in neutral
        },
    )


def read_generation_config(folder: Path) -> dict[str, Any]:
    """Return the settings that ``generate`` starts from, by name; those that are null are left out.

    Args:
        folder: the checkpoint.
    """
    stated = _read_object(folder / GENERATION_CONFIG)
    if stated is None:
        config = _read_object(folder / "config.json") or {}
        nested: Any = next((config[name] for name in ("decoder", "generator", "text_config") if config.get(name)), {})
        stated = {**(nested if isinstance(nested, dict) else {}), **_without_nulls(config)}
    return _without_nulls(stated)


def stop_tokens(stated: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the tokens that end an answer: ``eos_token_id``, an integer or a list."""
    value = stated.get("eos_token_id")
    listed = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(token for token in listed if type(token) is int and token >= 0))


def _are_ids(value: object) -> bool:
    """Say whether a value is an integer or a list of such; true and false are none, and would stand for 1 and 0."""
    return all(type(token) is int for token in (value if isinstance(value, list) else [value]))


def _without_nulls(stated: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in stated.items() if value is not None}


def _read_object(path: Path) -> dict[str, Any] | None:
    """Return a JSON object; None where there is no such file.

    transformers goes on without a file that is no JSON, which would leave out settings that the model's authors chose.
    """
    return read_json_object(path) if os.path.lexists(path) else None
