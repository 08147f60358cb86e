"""Tables of conversions from ATen operators, and what every conversion asks of its fx node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import fx

    from edgellm_core.tracing.converter import Conversion


class ConversionTable(dict[str, "Conversion"]):
    """Conversions by ATen overload, for example ``aten.add.Tensor``.

    Each takes the converter, the fx node and the node's arguments, and returns the name of its value. Arguments that
    would change the result must be in its signature: the converter refuses calls that the signature does not take.
    """

    def converts(self, *names: str) -> Callable[[Conversion], Conversion]:
        """Enter a conversion under the names of ATen overloads, without ``aten.``."""

        def enter(conversion: Conversion) -> Conversion:
            self.update({f"aten.{name}": conversion for name in names})
            return conversion

        return enter


def element_type(node: fx.Node) -> torch.dtype:
    """Return the element type of a node's result."""
    dtype: torch.dtype = node.meta["val"].dtype
    return dtype


def rank(node: fx.Node) -> int:
    """Return the number of axes of a node's result."""
    return len(node.meta["val"].shape)


def operand_type(*operands: Any) -> torch.dtype:
    """Return the element type in which torch computes with these operands, some of which may be numbers."""
    found = [item.meta["val"] if hasattr(item, "meta") else item for item in operands]
    dtype: torch.dtype = torch.result_type(found[0], found[1])
    return dtype
