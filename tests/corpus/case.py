"""The corpus: small checkpoints of the kinds that people have, each with what a build of it has to say.

A case is a function in ``tests/corpus/cases/<topic>.py`` that writes a checkpoint into a folder::

    @case(outcome="right", note="left out")
    def stored_masks(folder: Path) -> Made:
        \"\"\"The causal masks that old GPT-2 checkpoints store.\"\"\"
        source = write_tiny_checkpoint(folder / "model", GPT2)
        edit_tensors(source, lambda tensors: tensors | {...})
        return Made(source)

- ``outcome="right"``: the build succeeds, and ``tests/corpus/independent.py``, which shares nothing with the gate,
  finds logits, greedy answers, token ids and chats equal to those of the original (``Made.original``, the source itself
  by default). ``note`` is then a part of what the build has to say aloud.
- ``outcome="refused"``: the build ends with an ``EdgellmError`` whose message holds ``message``; nothing is published.
  ``detect --deep`` says the same, but where ``values_only`` is stated.

``settings`` are settings of the build (``precision`` is fp32 unless stated). ``lengths`` are the lengths of the prompts
that are compared, ``new_tokens`` those of the answers. ``tests/corpus/test_corpus.py`` runs all cases, and
``docs/reference/corpus.md`` lists them.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CASES_FOLDER = Path(__file__).parent / "cases"


@dataclass(frozen=True)
class Made:
    """What a case wrote.

    Attributes:
        source: what is built: a folder or a file.
        original: folder of the checkpoint that the bundle has to equal; None for the source itself.
    """

    source: Path
    original: Path | None = None


@dataclass(frozen=True, kw_only=True)
class CorpusCase:
    """One case.

    Attributes:
        name: its name.
        topic: file that holds it.
        summary: what is special about it.
        make: writes it into a folder.
        outcome: what a build has to do.
        message: part of the error of a refusal.
        values_only: a refusal that only values of weights, or numbers computed from them, can show; ``detect`` says
            that it did not look at them.
        note: part of what a successful build says.
        settings: settings of the build.
        lengths: tokens of the prompts that are compared.
        new_tokens: tokens of the greedy answers that are compared.
        tolerance: largest ``max |a - b| / max |b|`` of the logits.
    """

    name: str
    topic: str
    summary: str
    make: Callable[[Path], Made]
    outcome: Literal["right", "refused"]
    message: str = ""
    values_only: bool = False
    note: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    lengths: tuple[int, ...] = (3, 40)
    new_tokens: int = 12
    tolerance: float = 1e-4


_FOUND: dict[str, CorpusCase] = {}


def case(**fields: Any) -> Callable[[Callable[[Path], Made]], Callable[[Path], Made]]:
    """Register the function that makes a case; ``fields`` are those of ``CorpusCase``."""

    def register(make: Callable[[Path], Made]) -> Callable[[Path], Made]:
        found = CorpusCase(
            name=make.__name__,
            topic=make.__module__.rpartition(".")[2],
            summary=" ".join((make.__doc__ or "").split()),
            make=make,
            **fields,
        )
        if found.name in _FOUND:
            msg = f"two cases are called {found.name}"
            raise ValueError(msg)
        _FOUND[found.name] = found
        return make

    return register


def all_cases() -> list[CorpusCase]:
    """Return all cases, by topic."""
    for module in pkgutil.iter_modules([str(CASES_FOLDER)]):
        importlib.import_module(f"tests.corpus.cases.{module.name}")
    return sorted(_FOUND.values(), key=lambda found: (found.topic, found.name))
