"""Which tensors of a checkpoint transformers knowingly leaves out: its lists, its loader's rules, the model's buffers.

What it merely does not know (a bias that the architecture lacks) is none of them: transformers loads such a checkpoint
with a warning, and computes something else than whoever trained it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from transformers import PreTrainedModel

    from edgellm_core.tracing.checkpoint_names import LoadedName

FURTHER_TOKENS: Final = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers")
"""Keys of config.json with the number of layers that predict tokens after the next one (multi-token prediction)."""

FURTHER_TOKEN_PART: Final = re.compile(r"mtp(_\w+)?")
"""Part of the name of a tensor of such layers, where they don't lie behind the decoder layers."""

MOVED_BUFFERS: Final = {"rotary_emb.inv_freq": r"rotary_emb\.inv_freq", "position_ids": r"(^|\.)position_ids$"}
"""End of a buffer's name → tensors that are it, wherever older models had it (transformers 5.23,
``PreTrainedModel._adjust_missing_and_unexpected_keys``)."""

_NUMBERED: Final = re.compile(r"(?P<list>[^0-9]*?)\.(?P<index>\d+)\.(?P<rest>.+)")


def knowingly_left_out(model: PreTrainedModel, names: Mapping[str, LoadedName]) -> dict[str, str]:
    """Return the tensors that transformers leaves out without a warning, or that the config names, and why.

    A layer behind the decoder layers that holds nothing but what they hold is a decoder layer, whatever a list says.

    Args:
        model: the model, at full depth.
        names: all tensors of the checkpoint, from ``loaded_names``.
    """
    state = set(model.state_dict())
    targets = {name: loaded.target for name, loaded in names.items() if loaded.target not in state}
    if not targets:
        return {}
    rules = [*_listed(model), *_buffers(model, state)]
    decoder_layers = _decoder_layers_behind(model, [loaded.target for loaded in names.values()])
    key, further = _further_layers(model)
    lists = {layer[0] for layer in map(_layer, state) if layer}
    found: dict[str, str] = {}
    for name, target in targets.items():
        if _layer(target) in decoder_layers:
            continue
        why = next((why for pattern, why in rules if pattern.search(target)), "")
        if not why and _is_further(target, further, lists):
            why = f"one of {len(further)} layer(s) that predict further tokens ({key} in the config)"
        if why:
            found[name] = why
    return found


def _layer(name: str) -> tuple[str, int] | None:
    """Return path and index of the numbered module that a parameter lies in."""
    numbered = _NUMBERED.fullmatch(name)
    return (numbered["list"], int(numbered["index"])) if numbered else None


def _listed(model: PreTrainedModel) -> list[tuple[re.Pattern[str], str]]:
    """Return the patterns of the class, its bases and its parts; ``post_init`` gathers them on the model."""
    patterns: Iterable[str] = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    name = type(model).__name__
    return [(re.compile(pattern), f"transformers' {name} ignores {pattern!r}") for pattern in sorted(patterns)]


def _buffers(model: PreTrainedModel, stored: Collection[str]) -> list[tuple[re.Pattern[str], str]]:
    """Return patterns of the buffers that the model computes itself."""
    computed = [name for name, _buffer in model.named_buffers() if name not in stored]
    patterns = [f"^{re.escape(name)}$" for name in computed]
    patterns += [moved for end, moved in MOVED_BUFFERS.items() if any(name.endswith(end) for name in computed)]
    return [(re.compile(pattern), "a buffer that the model computes itself") for pattern in patterns]


def _further_layers(model: PreTrainedModel) -> tuple[str, range]:
    """Return the key that says how many layers predict further tokens, and their indices behind the decoder layers."""
    config: Any = model.config.get_text_config()
    depth = getattr(config, "num_hidden_layers", 0)
    for key in FURTHER_TOKENS:
        count = getattr(config, key, None)
        if isinstance(count, int) and count > 0:
            return key, range(depth, depth + count)
    return "", range(0)


def _is_further(target: str, layers: range, lists: Collection[str]) -> bool:
    """Say whether a tensor belongs to layers that predict further tokens, by its layer or its name.

    Args:
        target: the tensor.
        layers: indices of such layers behind the decoder layers.
        lists: paths of the numbered modules that the model has.
    """
    layer = _layer(target)
    if layer is not None and layer[0] in lists and layer[1] in layers:
        return True
    return bool(layers) and any(FURTHER_TOKEN_PART.fullmatch(part) for part in target.split("."))


def _decoder_layers_behind(model: PreTrainedModel, targets: Iterable[str]) -> set[tuple[str, int] | None]:
    """Return the layers behind the depth of the config (``model.layers``, 46) that are made like those before it."""
    depth = getattr(model.config.get_text_config(), "num_hidden_layers", 0)
    contents: dict[tuple[str, int], set[str]] = {}
    for target in targets:
        if numbered := _NUMBERED.fullmatch(target):
            contents.setdefault((numbered["list"], int(numbered["index"])), set()).add(numbered["rest"])
    known: dict[str, set[str]] = {}
    for (path, index), rests in contents.items():
        if index < depth:
            known.setdefault(path, set()).update(rests)
    return {
        (path, index) for (path, index), rests in contents.items() if index >= depth and rests <= known.get(path, set())
    }
