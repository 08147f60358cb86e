"""Finds the numbers of a config that are lengths, by what the original computes with other numbers there.

A number is a length if, set to a small n and to n + 1 over the same weights, short sequences come out alike and the
sequence that is just longer than n does not: a window, a chunk, the length at which RoPE switches, the keys that sparse
attention keeps. Names play no part. Numbers that only regroup the same sums (blocks of a scan) are lengths too: they
change the results in the last bits.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from edgellm_core.errors import EdgellmError
from edgellm_core.tracing.modeling_code import quiet_libraries, refused_as_untraceable
from edgellm_core.verification.comparison import relative_difference
from edgellm_core.verification.twin.original import on_meta, original_of
from edgellm_core.verification.twin.sizes import TOKEN_IDS, VOCABULARY, parts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from transformers import PreTrainedConfig

    from edgellm_core.verification.twin.shrink import SmallModel
    from edgellm_core.verification.twin.sizes import Fields

Path = tuple[str, ...]

CONTEXT: Final = "max_position_embeddings"
"""transformers' key for the context, which factors of RoPE are computed from."""

PROBED: Final = (6, 8)
"""Small numbers that are tried in the place of one, each with the next one that is tried beside it."""

SHORT: Final = 3
LONG: Final = 40
"""Tokens below and above every number that is tried."""

CHANGES: Final = 1e-3
"""Relative difference of logits from which on the function changed; rounding stays below 1e-5."""

ALIKE: Final = 0.25
"""Share of the difference at long lengths up to which short ones are alike: a scale that depends on the length a little
(LongRoPE's attention factor) changes them too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Threshold:
    """A length at which the model's behaviour changes.

    Attributes:
        paths: where the config states it.
        value: the number there.
        exact: it changes the function; else only how sums are grouped.
        scales: the context changes no weight's shape, and is scaled with the length.
    """

    paths: tuple[Path, ...]
    value: int
    exact: bool
    scales: bool = True

    @property
    def name(self) -> str:
        """The key, with those that it lies in."""
        return ".".join(self.paths[0])


def find_thresholds(small: SmallModel) -> list[Threshold]:
    """Return the lengths among a config's numbers, ascending.

    Args:
        small: the shrunk model; its lengths are those of the whole one.
    """
    weights = dict(small.model.named_parameters())
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    found = []
    with quiet_libraries():
        for value, paths in sorted(_numbers(small.fields).items()):
            free = [path for path in paths if _keeps_shapes(small, path, shapes)]
            threshold = _judged(small, free, value, weights) if free else None
            if threshold is not None:
                found.append(threshold)
    return found


def _numbers(fields: Fields) -> dict[int, list[Path]]:
    """Return the whole numbers above one → where they are stated."""
    found: dict[int, list[Path]] = {}

    def walk(value: Any, path: Path) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                if isinstance(key, str) and not key.endswith(TOKEN_IDS) and key not in ("id2label", "label2id"):
                    walk(inner, (*path, key))
        elif isinstance(value, list):
            for inner in {one for one in value if type(one) is int}:
                walk(inner, path)
        elif type(value) is int and value > 1 and path not in found.get(value, ()):
            found.setdefault(value, []).append(path)

    walk(fields, ())
    return found


def with_number(fields: Fields, paths: Sequence[Path], value: int, number: int) -> Fields:
    """Return a config with another number in the places of one."""
    result = copy.deepcopy(fields)
    for *owners, key in paths:
        part = result
        for owner in owners:
            part = part[owner]
        held = part[key]
        part[key] = [number if one == value else one for one in held] if isinstance(held, list) else number
    return result


def _keeps_shapes(small: SmallModel, path: Path, shapes: Mapping[str, torch.Size]) -> bool:
    """Say whether weights are the same with another number; where transformers refuses it, it is no length."""
    value = next(number for number, paths in _numbers(small.fields).items() if path in paths)
    try:
        with refused_as_untraceable(str(path), "another number"):
            other = on_meta(small.make_config(with_number(small.fields, [path], value, PROBED[0])))
    except EdgellmError:
        return False
    return {name: tensor.shape for name, tensor in other.named_parameters()} == dict(shapes)


def _judged(
    small: SmallModel, paths: Sequence[Path], value: int, weights: Mapping[str, torch.Tensor]
) -> Threshold | None:
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    scales = all(
        _keeps_shapes(small, path, shapes)
        for paths_of_one in _numbers(small.fields).values()
        for path in paths_of_one
        if path[-1] == CONTEXT
    )
    alone = {path: _effect(small, [path], value, weights, scales=scales) for path in paths}
    found = {path: exact for path, exact in alone.items() if exact is not None}
    if not found and len(paths) > 1:  # what is stated twice may count only where both agree
        joint = _effect(small, paths, value, weights, scales=scales)
        found = {} if joint is None else dict.fromkeys(paths, joint)
    if not found:
        return None
    return Threshold(paths=tuple(found), value=value, exact=any(found.values()), scales=scales)


def _effect(
    small: SmallModel, paths: Sequence[Path], value: int, weights: Mapping[str, torch.Tensor], *, scales: bool
) -> bool | None:
    """Return whether a number is a length that changes the function; None where it is no length."""
    replaced = with_scaled if scales else with_number
    for least in PROBED:
        lengths = (SHORT, least, least + 1, least + 2, LONG)
        try:
            with refused_as_untraceable(str(paths), "another number"):
                runs = [
                    _logits(small.make_config(replaced(small.fields, paths, value, number)), weights, lengths)
                    for number in (least, least + 1)
                ]
        except EdgellmError:  # a number that the model does not take; the next one may be
            continue
        first, second, *longer = [_difference(one, other) for one, other in zip(*runs, strict=True)]
        if max(longer) > CHANGES:
            return True if max(first, second) <= ALIKE * max(longer) else None
        return False if max(longer) > 0 else None
    return None


def with_scaled(fields: Fields, paths: Sequence[Path], value: int, number: int) -> Fields:
    """Return a config with a number replaced, and the context scaled as far where it is longer than that.

    LongRoPE and YaRN compute a factor from the context over the original length.
    """
    result = with_number(fields, paths, value, number)
    for part, before in zip(parts(result), parts(fields), strict=True):
        context = before.get(CONTEXT)
        if type(context) is int and context > value:
            part[CONTEXT] = max(number + 1, context * number // value)
    return result


def _logits(
    config: PreTrainedConfig, weights: Mapping[str, torch.Tensor], lengths: Sequence[int]
) -> list[np.ndarray[Any, Any]]:
    model = original_of(config, weights)
    results = []
    for length in lengths:
        ids = torch.arange(length)[None] * 7 % (VOCABULARY // 2)
        with torch.inference_mode():
            results.append(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.numpy())
    return results


def _difference(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    return relative_difference(one, other)
