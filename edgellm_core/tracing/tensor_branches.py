"""RoPE whose Python code branches on a tensor (``if position_ids.max() + 1 > 4096``): both sides go into the graph.

A trace can't ask a tensor for its truth. The module's forward is run once for each outcome, and the graph chooses.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.overrides import TorchFunctionMode

from edgellm_core.tracing.errors import UntraceableModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

MOST_QUESTIONS: Final = 4
"""Most branches that one forward may meet; each doubles its graph."""


@contextlib.contextmanager
def both_sides(model: nn.Module) -> Iterator[None]:
    """Let the RoPE modules of a model take both sides of their branches in the body."""
    changed = [module for module in model.modules() if _scales(module)]
    for module in changed:
        module.forward = _forked(module.forward, type(module).__name__)
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _scales(module: nn.Module) -> bool:
    """Say whether a module is RoPE of one kind that may look at the length; "dynamic" has a form of its own."""
    kind = getattr(module, "rope_type", None)
    return isinstance(kind, str) and kind not in ("default", "dynamic") and "forward" not in module.__dict__


def _forked(usual: Callable[..., Any], name: str) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return explore((), args, kwargs)

    def explore(answers: tuple[bool, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(answers) > MOST_QUESTIONS:
            raise UntraceableModelError(name, f"its forward branches on tensors more than {MOST_QUESTIONS} times")
        with _Answers(answers) as asked:
            result = usual(*args, **kwargs)
        if len(asked.questions) <= len(answers):
            return result
        question = asked.questions[len(answers)] != 0
        return _choose(question, *(explore((*answers, answer), args, kwargs) for answer in (True, False)))

    return forward


def _choose(question: torch.Tensor, yes: Any, no: Any) -> Any:
    if isinstance(yes, tuple):
        return tuple(_choose(question, one, other) for one, other in zip(yes, no, strict=True))
    return torch.where(question, yes, no)


class _Answers(TorchFunctionMode):
    """Answers the questions for a tensor's truth: the first ones as told, further ones with True."""

    def __init__(self, answers: tuple[bool, ...]) -> None:
        super().__init__()
        self.answers = answers
        self.questions: list[torch.Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Call ``func``, or answer."""
        del types
        if func is not torch.Tensor.__bool__:
            return func(*args, **(kwargs or {}))
        self.questions.append(args[0])
        number = len(self.questions) - 1
        return self.answers[number] if number < len(self.answers) else True
