"""Which family a config.json belongs to by the claims, and which families are near when none does."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.host.structure import Parts, parts_of_checkpoint, parts_of_modeling

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgellm_core.contract import ModelFamily
    from edgellm_core.host.claims import ClaimTable

GENERIC: Final = "generic"
"""Name of the family of checkpoints that no plugin claims."""

NEAREST: Final = 3
"""Most families that a message about an unclaimed checkpoint names."""

SIMILARITY: Final = 0.6
"""Least ``difflib`` ratio of a near name; difflib's own default."""

LIKENESS: Final = 0.7
"""Least likeness of the parts of a near family. Checkpoints of a family have 0.8 with its own modeling code, llama's
near copies the same, and models of another build (GPT-2, BLOOM) 0.2 with any."""

HEAD_SUFFIX: Final = re.compile(r"(For[A-Z]\w*|LMHeadModel|Model)$")
"""End of an architecture's name; with it every two architectures would look alike."""


def select_claimed(claims: ClaimTable, config: Mapping[str, Any]) -> tuple[str, str]:
    """Return name of the family and reason: ``architectures`` first, then ``model_type``, else the generic family."""
    model_type = config.get("model_type")
    by_type = claims.get("model_type", model_type) if isinstance(model_type, str) else None
    architectures = architectures_of(config)
    for architecture in architectures:
        claimed = claims.get("architectures", architecture)
        if claimed is not None:
            plugin, family = claimed
            reason = f"architectures says {architecture!r}, which plugin {plugin.name!r} claims"
            if by_type is not None and by_type[1] is not family:
                reason += f"; it decides over model_type {model_type!r}, which plugin {by_type[0].name!r} claims"
            return family.name, reason
    if by_type is not None:
        plugin, family = by_type
        reason = f"model_type says {model_type!r}, which plugin {plugin.name!r} claims"
        return family.name, reason + (f"; nobody claims {_quoted(architectures)}" if architectures else "")
    said = [*architectures, model_type] if model_type else architectures
    reason = f"no plugin claims {_quoted(said)}" if said else "config.json has neither architectures nor model_type"
    return GENERIC, reason


def nearest_families(claims: ClaimTable, config: Mapping[str, Any], tensor_names: Sequence[str] = ()) -> list[str]:
    """Return up to three families whose names or parts look like the checkpoint's, the nearest first.

    Args:
        claims: who claims what.
        config: contents of config.json.
        tensor_names: tensors of the checkpoint; without them names alone are compared.
    """
    wanted = [_stem(name) for name in (*architectures_of(config), config.get("model_type")) if isinstance(name, str)]
    best: dict[str, float] = {}
    families: dict[str, ModelFamily] = {}
    for key in ("family", "model_type", "architectures"):
        for value, family in claims.items(key):
            ratio = max((difflib.SequenceMatcher(None, _stem(value), name).ratio() for name in wanted), default=0.0)
            best[family.name] = max(ratio, best.get(family.name, 0.0))
            families[family.name] = family
    scores = {name: ratio if ratio >= SIMILARITY else 0.0 for name, ratio in best.items() if name != GENERIC}
    if tensor_names:
        checkpoint = parts_of_checkpoint(config, tensor_names)
        for name in scores:
            likeness = _likeness(checkpoint, families[name])
            scores[name] += likeness if likeness >= LIKENESS else 0.0
    near = [name for name, score in scores.items() if score]
    return sorted(near, key=lambda name: (-scores[name], name))[:NEAREST]


def _likeness(checkpoint: Parts, family: ModelFamily) -> float:
    """Return how near a checkpoint is to the modeling code of a family."""
    types = (family.modeled_as, *family.model_types)
    parts = next((found for model_type in types if model_type and (found := parts_of_modeling(model_type))), None)
    return checkpoint.likeness(parts) if parts is not None else 0.0


def architectures_of(config: Mapping[str, Any]) -> list[str]:
    """Return the strings in config.json's ``architectures``, which may be missing, null or malformed."""
    architectures = config.get("architectures")
    return [name for name in architectures if isinstance(name, str)] if isinstance(architectures, list) else []


def _stem(name: str) -> str:
    return HEAD_SUFFIX.sub("", name).lower().replace("-", "_")


def _quoted(names: list[Any]) -> str:
    return ", ".join(map(repr, names))
