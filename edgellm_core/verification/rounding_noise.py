"""Rounds an original otherwise: as if another kernel had summed in another order.

How far a few rounding errors move the logits differs from token to token: a delta net that divides a vector of 1e-4 by
its own norm amplifies them a thousand times, at the next token not at all. So they are drawn anew at the very tokens
that are compared.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

DRAWS: Final = 4
"""How often rounding errors are drawn; measured: two draws at the same token differ by up to a factor of five."""

RELATIVE: Final = 2.0**-23
"""Largest relative change of a number, the distance of float32's neighbours: a sum of some hundred products in another
order moves by about as much."""

FACTOR: Final = 2.0
"""How much farther a graph may be from its original than the original is from itself, rounded otherwise, or from
float64. Both round as often, in another order; measured: up to 1.2 at scores of 600, over 480 positions each."""

LARGEST: Final = 1e-3
"""Largest error that can be rounding in float32. A RoPE table rounded to float16 moves scores of 600 by 0.1."""


@contextlib.contextmanager
def rounded_otherwise(model: nn.Module, seed: int) -> Iterator[None]:
    """Change what every innermost module of a model yields by up to ``RELATIVE`` of itself in the body.

    Args:
        model: computes in float32 or wider.
        seed: of the errors, which are uniform and independent.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)

    def change(_module: nn.Module, _arguments: Any, output: Any) -> Any:
        if not isinstance(output, torch.Tensor) or not output.is_floating_point():
            return output
        noise = torch.rand(output.shape, generator=generator, dtype=output.dtype).mul_(2 * RELATIVE).sub_(RELATIVE)
        return output * (1 + noise)

    innermost = [module for module in model.modules() if next(module.children(), None) is None]
    with contextlib.ExitStack() as handles:
        for module in innermost:
            handles.callback(module.register_forward_hook(change).remove)
        yield
