"""Why a quantized checkpoint can't be taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path


class UnsupportedQuantizationError(UserError):
    """The checkpoint is quantized in a way that is not known."""

    def __init__(self, directory: Path, method: str) -> None:
        """Name the checkpoint and what it uses."""
        super().__init__(
            f"{directory} is quantized in a way that edgellm can't represent: {method}. Build from the unquantized "
            "checkpoint with --precision."
        )


class MalformedQuantizationError(UserError):
    """The description of the quantization lacks something."""

    def __init__(self, directory: Path, problem: str) -> None:
        """Name the checkpoint and the gap."""
        super().__init__(
            f"The quantization of {directory} must be described completely; {problem}. Export the checkpoint again "
            "with the tool that quantized it."
        )


class QuantizedTensorMismatchError(UserError):
    """A tensor of a quantized layer is missing, or is not what its format says."""

    def __init__(self, directory: Path, name: str, wanted: str, found: str) -> None:
        """Name the tensor, what it should be and what it is."""
        super().__init__(
            f"Tensor {name!r} of {directory} must be {wanted} by its quantization; got {found}. Export the checkpoint "
            "again with the tool that quantized it."
        )
