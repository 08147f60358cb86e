"""Branches of a model's own code on the length of a sequence (``if length > 2048``), which a trace would freeze.

``torch.export`` evaluates such a branch by the example, or by the bounds of the symbolic lengths, and keeps one side.
Here the side of long sequences is taken: where it keeps the largest ``k`` of the keys, ``k`` is bounded by how many
there are, and where both sides compute the same for short sequences it is right for all. That is no proof; the twin,
which runs on both sides of each length, is. Where the long side can't be taken (it raises), the short one is, if the
model's context ends there; else the model is refused.
"""

from __future__ import annotations

import contextlib
import linecache
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.overrides import TorchFunctionMode

from edgellm_core.checkpoint.dimensions import context_length
from edgellm_core.tracing.errors import UntraceableModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from transformers import PreTrainedConfig

ANY_LENGTH: Final = 1 << 40
"""Stands for a sequence longer than every length that code compares with."""

TORCH: Final = str(Path(torch.__file__).parent)


@dataclass(frozen=True, slots=True)
class LengthBranch:
    """A place in a model's code that decides by the length of a sequence.

    Attributes:
        file: the Python file's name.
        line: line in it, from 1.
        source: that line.
        length: the longest sequence on the side of short ones.
    """

    file: str
    line: int
    source: str
    length: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line} ({self.source!r}) decides at {self.length} tokens"


@dataclass(kw_only=True)
class LengthBranches:
    """The branches that a trace met.

    Attributes:
        long: take the side of long sequences.
        reason: why that could not be traced, where it is not taken.
        found: where, in the order in which they were met.
    """

    long: bool = True
    reason: str = ""
    found: list[LengthBranch] = field(default_factory=list)

    @property
    def consequence(self) -> str:
        """What the graph has of each branch, in words."""
        if self.long:
            return "the graph has the side of longer sequences; the stage twin compares both, --verify off neither"
        return "the graph has the side of shorter sequences, and the model's context ends there"

    @contextlib.contextmanager
    def decided(self) -> Iterator[None]:
        """Decide the branches of a model's own code in the body."""
        original: Callable[[Any], bool] = torch.SymBool.__bool__

        def decide(condition: Any) -> bool:
            frame = sys._getframe(1)  # noqa: SLF001  # whose code asks
            if frame.f_code.co_filename.startswith(TORCH):
                return original(condition)
            branch = _length_branch(condition, frame)
            if branch is None:
                return original(condition)
            if branch not in self.found:
                self.found.append(branch)
            return _truth(condition.node, ANY_LENGTH if self.long else 1)

        torch.SymBool.__bool__ = decide  # type: ignore[method-assign]
        try:
            with BoundedChoice():
                yield
        finally:
            torch.SymBool.__bool__ = original  # type: ignore[method-assign]

    def require_long_sides(self, config: PreTrainedConfig, model: str) -> None:
        """Refuse a trace of the short sides where sequences within the context are longer.

        Raises:
            UntraceableModelError: naming the branch and the key of the config that it reads.
        """
        context = context_length(config)
        for branch in () if self.long else self.found:
            if context is None or branch.length < context:
                keys = [key for key, value in config.get_text_config().to_dict().items() if value == branch.length]
                named = f", which is {' or '.join(keys)}" if keys else ""
                reason = f"{branch}{named}, and what it does with longer sequences can't be traced: {self.reason}"
                raise UntraceableModelError(model, reason)


class BoundedChoice(TorchFunctionMode):
    """Bounds the ``k`` of ``topk`` by the length of a growing axis."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Call ``func``; ``topk`` with a bounded ``k``."""
        del types
        given = dict(kwargs or {})
        if func in (torch.topk, torch.Tensor.topk):
            names = ("input", "k", "dim", "largest", "sorted")
            given |= dict(zip(names, args, strict=False))
            size = given["input"].shape[given.get("dim", -1)]
            if isinstance(size, torch.SymInt) and isinstance(given["k"], int):
                given["k"] = torch.sym_min(size, given["k"])  # type: ignore[no-untyped-call]
            values = given.pop("input"), given.pop("k")
            return torch.topk(*values, **given)
        return func(*args, **given)


def _length_branch(condition: Any, frame: FrameType) -> LengthBranch | None:
    """Return what a condition decides by; None where that is no length, or only tells one token from several."""
    node = condition.node
    if node.hint is None or not _compares_a_length(node.expr) or _truth(node, 1) == _truth(node, ANY_LENGTH):
        return None
    short, long = 1, ANY_LENGTH
    while long - short > 1:
        middle = (short + long) // 2
        short, long = (middle, long) if _truth(node, middle) == _truth(node, 1) else (short, middle)
    if short == 1:
        return None
    name, line = frame.f_code.co_filename, frame.f_lineno
    return LengthBranch(Path(name).name, line, linecache.getline(name, line).strip(), short)


def _compares_a_length(expression: Any) -> bool:
    """Say whether an expression is ``<``, ``<=``, ``>`` or ``>=`` of a sum of lengths and a number."""
    import sympy  # type: ignore[import-untyped]

    if not isinstance(expression, (sympy.Lt, sympy.Le, sympy.Gt, sympy.Ge)):
        return False
    terms = (expression.lhs - expression.rhs).expand().as_coefficients_dict()
    factors = {factor for term, factor in terms.items() if term != 1}
    return all(term == 1 or term.is_Symbol for term in terms) and factors in ({1}, {-1})


def _truth(node: Any, total: int) -> bool:
    """Return a condition for lengths that add up to ``total``."""
    import sympy

    first, *others = sorted(node.expr.free_symbols, key=str)
    return bool(node.expr.xreplace({first: sympy.Integer(total), **dict.fromkeys(others, sympy.Integer(0))}))
