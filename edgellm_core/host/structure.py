"""How near a checkpoint is to a family by its parts: parameter names and config keys, against transformers' source.

The source is read as text: nothing of transformers is imported.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_PART: Final = re.compile(r"self\.([a-z]\w*)\s*(?::[^=\n]+)?=\s*(?:nn\.[A-Z]\w*|[A-Z]\w*)\(")
"""A submodule or parameter that a modeling file makes: ``self.q_proj = nn.Linear(``."""
_KEY: Final = re.compile(r"\bconfig\.([a-z]\w*)")
"""A key of the config that a modeling file reads."""
_LEAVES: Final = frozenset({"weight", "bias"})
"""Names of tensors that torch's own modules make."""
_BOOKKEEPING: Final = re.compile(r"_token_id$|^_|^(torch_)?dtype$|^use_cache$|^output_|^get_text_config$")
"""Keys that say nothing about the structure."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a model is made of.

    Attributes:
        names: attribute names of its submodules and parameters, for example ``q_proj``.
        keys: keys of its config.
    """

    names: frozenset[str]
    keys: frozenset[str]

    def likeness(self, other: Parts) -> float:
        """Return 0 (nothing in common) to 1 (all names of both are equal), the mean over names and keys."""
        return (_dice(self.names, other.names) + _dice(self.keys, other.keys)) / 2


def parts_of_checkpoint(config: Mapping[str, Any], tensor_names: Iterable[str]) -> Parts:
    """Return the parts of a checkpoint: from ``model.layers.0.self_attn.q_proj.weight``, what lies between the dots.

    Args:
        config: contents of config.json; keys with an empty value switch nothing on and are left out.
        tensor_names: as the safetensors headers have them.
    """
    words = {word for name in tensor_names for word in name.split(".")}
    names = {word for word in words if not word.isdecimal()} - _LEAVES
    return Parts(frozenset(names), _telling(key for key, value in config.items() if value not in (None, "", [], {})))


@cache
def parts_of_modeling(model_type: str) -> Parts | None:
    """Return the parts of transformers' model of a type; None where the installed version has no file of that name."""
    spec = importlib.util.find_spec("transformers")
    for root in (spec.submodule_search_locations or ()) if spec is not None else ():
        for folder in (model_type, model_type.removesuffix("_text")):
            path = Path(root, "models", folder, f"modeling_{folder}.py")
            if path.is_file():
                source = path.read_text(encoding="utf-8")
                return Parts(frozenset(_PART.findall(source)), _telling(_KEY.findall(source)))
    return None


def _telling(keys: Iterable[str]) -> frozenset[str]:
    return frozenset(key for key in keys if not _BOOKKEEPING.search(key))


def _dice(a: frozenset[str], b: frozenset[str]) -> float:
    """Return the Sørensen–Dice coefficient of two sets."""
    return 2 * len(a & b) / (len(a) + len(b)) if a or b else 0.0
