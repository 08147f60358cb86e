"""Which models the installed transformers has, read from its source: importing it takes seconds."""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path
from typing import Final

MAPPING: Final = re.compile(
    r"^MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = OrderedDict\(\s*\[(.*?)^\s*\]", re.DOTALL | re.MULTILINE
)
"""``model_type`` → class of the causal language model (``transformers/models/auto/modeling_auto.py``)."""


@functools.cache
def causal_model_types() -> frozenset[str]:
    """Return the values of ``model_type`` for which transformers has a causal language model; empty if unreadable."""
    found = importlib.util.find_spec("transformers")
    folder = next(iter(found.submodule_search_locations or ()), "") if found else ""
    try:
        source = (Path(folder) / "models" / "auto" / "modeling_auto.py").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    mapping = MAPPING.search(source)
    return frozenset(re.findall(r"\(\s*\"([^\"]+)\",", mapping[1])) if mapping else frozenset()
