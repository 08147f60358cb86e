"""Why a quantized checkpoint can't be taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence
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


class ContradictoryQuantizationError(UserError):
    """What a quantized checkpoint says and what it holds exclude each other."""

    def __init__(self, directory: Path, problem: str) -> None:
        """Name the checkpoint, what it says and what it holds."""
        super().__init__(
            f"What {directory} says of its quantization must fit the tensors that it holds; {problem}. Correct its "
            "settings (quantization_config in config.json, or hf_quant_config.json), or export the checkpoint again "
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


class NotInGraphError(UserError):
    """The layout speaks of something that the traced model does not have in that form."""

    def __init__(self, kind: str, names: Sequence[str], wanted: str) -> None:
        """Name what is missing.

        Args:
            kind: ``layer(s)`` or ``cache(s)``.
            names: their names.
            wanted: what they should be.
        """
        shown = ", ".join(repr(name) for name in names[:3]) + (f", … ({len(names)} in all)" if len(names) > 3 else "")
        super().__init__(
            f"The quantized {kind} {shown} must be {wanted}; they are not, so the graph can't hold what the checkpoint "
            "says. Leave them unquantized, or build from the unquantized checkpoint."
        )


class PartialBlockError(UserError):
    """The block size does not divide a layer."""

    def __init__(self, module: str, inputs: int, block_size: int) -> None:
        """Name the layer and both sizes."""
        super().__init__(
            f"The inputs of layer {module!r} must be a multiple of its block size {block_size}; it has {inputs}. "
            "Quantize it with a smaller block, or leave it unquantized."
        )


class UnevenExpertsError(UserError):
    """The experts of a layer are one weight in the graph, and are not all quantized alike."""

    def __init__(self, weight: str, module: str) -> None:
        """Name the weight and the first expert that differs."""
        super().__init__(
            f"All experts of {weight!r} must be quantized alike; {module!r} differs. Leave them unquantized, or build "
            "from the unquantized checkpoint."
        )


class SharedByTwoError(UserError):
    """Two quantized layers share one weight."""

    def __init__(self, first: str, second: str) -> None:
        """Name both layers."""
        super().__init__(
            f"The model ties the weights of {first!r} and {second!r}, so only one of them can be quantized; the "
            'checkpoint quantizes both. If they are meant to differ, set "tie_word_embeddings": false in config.json.'
        )
