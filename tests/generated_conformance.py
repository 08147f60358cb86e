"""The page of the conformance kit, from its code."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Final

from tests.docstrings import to_markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

INTRO: Final = """# Conformance kit

The checks that a family has to pass. `edgellm plugins test NAME` runs them on a family, or on all families of a plugin;
without a name on every family. The tests of a pack take them over with one line:

```python
from edgellm_core.testing.conformance import *
```

A check is called `FAMILY-L1-CHECK`, for example `qwen3-L1-stamped_equals_full`; `-k` selects by it. The kit is a plugin
of pytest, which edgellm brings along (entry point `edgellm` of the group `pytest11`). Its exit code is 0 only where
checks ran and all of them passed: a run that skipped everything fails."""

LEVELS: Final = {
    0: "Level 0: static",
    1: "Level 1: the tiny model on the CPU",
    2: "Level 2: quantized",
    3: "Level 3: an engine",
    4: "Level 4: real weights",
}

NEEDS: Final = {
    0: "What can be said without building anything.",
    1: "A random model of the family's `tiny_config()`, in float32, from trace to parity.",
    2: "The entries of the tiny model in the family's `matrix.yaml` whose precision is a quantization scheme. Each is "
    "calibrated by NVIDIA ModelOpt on the builtin text, built, and compared with what its checkpoint says.",
    3: "The tiny model in float16. TensorRT-RTX needs no GPU. Where the heads of the tiny model have a size that is no "
    "multiple of 8, a copy of it with the next multiple is built, and the output says so.",
    4: "The models of the family in `model_registry.yaml`, in each precision, whose weights are here: in an installed "
    "package, in the hub's cache, or in a directory given with `--weights`. Only `--download` downloads any.",
}

KNOWN_FAILURES: Final = """## Known failures

`matrix.yaml` of a family may name checks that it fails, each with the reason:

```yaml
known_failures:
  L1-dynamic_shapes: the model was traced for one token at a time
```

They run, and are expected to fail. One that passes fails the run, so that the line is removed."""

SKIPS: Final = """## Skips

A check is skipped for one of these reasons only. A skip for any other reason fails."""

RECORDS: Final = """## Records

With `--record DIR`, level 4 writes `MODEL-PRECISION.json` for each model that passed. The records of this repository
lie in `conformance/`. A precision in `model_registry.yaml` may be `verified` only if its record is there; a test checks
that."""

OPTIONS: Final = """## Options of pytest

`edgellm plugins test` hands its options on to these, which packs set in `pyproject.toml`."""


def conformance_page(table: Callable[[tuple[str, ...], list[tuple[str, ...]]], str]) -> str:
    """Return the page.

    Args:
        table: makes a Markdown table of a header and rows.
    """
    from edgellm_core.testing.conformance import CHECKS
    from edgellm_core.testing.kit.skips import SkipReason
    from edgellm_core.testing.records import ConformanceRecord

    parts = [INTRO]
    for level, title in LEVELS.items():
        checks = [(name, function) for name, function in CHECKS.items() if name.startswith(f"L{level}-")]
        rows = [(f"`{name}`", to_markdown(inspect.getdoc(function) or "")) for name, function in checks]
        parts += [f"## {title}", NEEDS[level], table(("check", "what has to hold"), rows)]
    parts += [KNOWN_FAILURES, SKIPS]
    parts.append(table(("reason", "meaning"), [(f"`{reason.value}`", reason.meaning) for reason in SkipReason]))
    parts += [RECORDS, f"Its keys: {', '.join(f'`{key}`' for key in ConformanceRecord.model_fields)}."]
    parts += [OPTIONS, table(("option", "meaning"), list(_options()))]
    return "\n\n".join(parts)


def _options() -> Iterable[tuple[str, str]]:
    """Yield the options that the pytest plugin adds, and what they say about themselves."""
    import pytest

    from edgellm_core.testing.pytest_plugin import pytest_addoption

    parser = pytest.Parser(_ispytest=True)  # the public ways to get one start a whole run
    pytest_addoption(parser)
    for option in parser.getgroup("edgellm").options:
        attributes = option.attrs()
        yield f"`{option.names()[0]}`", str(attributes["help"])
