"""What can be wrong with the weights of a checkpoint, or with the disk that they are written to."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from edgellm_core.errors import EdgellmError, UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SHOWN = 5
"""Names that a message lists before it only counts."""


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return f"{shown}, … ({len(names)} in all)" if len(names) > SHOWN else shown


class MissingTensorsError(UserError):
    """Parameters of the graph have no tensor in the checkpoint."""

    def __init__(self, names: Sequence[str], nearest: Mapping[str, str]) -> None:
        """Name the parameters and, where there is one, the most similar tensor that nothing uses.

        Args:
            names: parameters without a tensor.
            nearest: parameter → similar name in the checkpoint.
        """
        listed = [f"{name!r} (similar: {nearest[name]!r})" if name in nearest else repr(name) for name in names]
        super().__init__(
            f"The checkpoint lacks {len(names)} tensor(s) that the model needs: {_listed(listed)}. "
            "Check that the download is complete and that config.json belongs to these weights."
        )


class UnexpectedTensorsError(UserError):
    """Tensors of the checkpoint that the graph does not use and nobody ignores."""

    def __init__(self, names: Sequence[str]) -> None:
        """Name the tensors."""
        super().__init__(
            f"The checkpoint has {len(names)} tensor(s) that the model does not use: "
            f"{_listed([repr(name) for name in names])}. They may change what it computes: check that config.json "
            "belongs to these weights (its layers, its biases). What really is unused has to be removed from the "
            "checkpoint, or belongs in the ignored_tensors of its family."
        )


class ShapeMismatchError(UserError):
    """Tensors of the checkpoint have other shapes than the graph's parameters."""

    def __init__(self, mismatches: Sequence[tuple[str, Sequence[int], Sequence[int]]]) -> None:
        """Name the tensors with both shapes.

        Args:
            mismatches: ``(name, shape in the checkpoint, shape that the model needs)``.
        """
        listed = [f"{name!r} has {list(found)}, not {list(needed)}" for name, found, needed in mismatches]
        super().__init__(
            f"{len(mismatches)} tensor(s) of the checkpoint don't have the shape that config.json asks for: "
            f"{_listed(listed)}. Check that config.json belongs to these weights."
        )


class UnsupportedCastError(UserError):
    """A tensor's element type can't be turned into the one that the graph needs."""

    def __init__(self, name: str, found: str, needed: str) -> None:
        """Name the tensor and both element types."""
        super().__init__(
            f"Tensor {name!r} has element type {found}, which can't be turned into {needed}: weights are cast "
            "from F64, F32, F16, BF16, integers and booleans only. Use a checkpoint in one of these, or one that names "
            "its quantization."
        )


class TiedTensorsDifferError(UserError):
    """Two tensors that the model shares have different values in the checkpoint."""

    def __init__(self, first: str, second: str) -> None:
        """Name both tensors."""
        super().__init__(
            f"The model ties {first!r} to {second!r}, but the checkpoint holds both with different values. "
            'If they are meant to differ, set "tie_word_embeddings": false in config.json.'
        )


class NonFiniteWeightError(UserError):
    """A weight is NaN or infinite."""

    def __init__(self, name: str, index: int, value: float, file: Path) -> None:
        """Name the tensor, the flat index of the first such weight, its value, and the file."""
        super().__init__(
            f"Tensor {name!r} in {file.name} has the value {value} at flat index {index}; weights must be finite. "
            "The checkpoint is damaged: download or save it again."
        )


class WeightOverflowError(UserError):
    """A finite weight is too large for the element type of the graph."""

    def __init__(self, name: str, index: int, value: float, element_type: str) -> None:
        """Name the tensor, the flat index of the first such weight, its value, and a precision that holds it."""
        remedies = {
            "F16": "Build with --precision bf16 or --precision fp32.",
            "BF16": "Build with --precision fp32.",
            "F32": "No precision does: save the checkpoint with smaller weights.",
        }
        super().__init__(
            f"Tensor {name!r} has the value {value:.6g} at flat index {index}, which {element_type} can't hold. "
            f"{remedies[element_type]}"
        )


class ScaledWeightOverflowError(UserError):
    """A weight times a factor that is folded into it is too large for the element type of the graph."""

    def __init__(self, name: str, index: int, value: float, factor: float, element_type: str) -> None:
        """Name the tensor, the flat index of the first such weight, its value, the factor, and a way around."""
        super().__init__(
            f"Tensor {name!r} has the value {value:.6g} at flat index {index}; {element_type} can't hold it times "
            f"{factor:g}, a factor of the model that is folded into it. Build with --target onnx --precision bf16."
        )


class ScaleNotPositiveError(UserError):
    """A scale by which the graph divides is not above zero, or not any more in the element type of the graph."""

    def __init__(self, name: str, value: float, element_type: str) -> None:
        """Name the tensor, its value in the checkpoint, and the element type."""
        remedy = "Build with --precision bf16 or --precision fp32" if element_type == "F16" else "Quantize it again"
        super().__init__(
            f"Tensor {name!r} must be above 0 in {element_type}, since the graph divides by it; it has the value "
            f"{value:.6g}. {remedy}."
        )


class FourBitRangeError(UserError):
    """A number that has to fit into four bits does not."""

    def __init__(self, name: str, index: int, value: int) -> None:
        """Name the tensor, the flat index of the first such number, and the number."""
        super().__init__(
            f"Tensor {name!r} must hold numbers from 0 to 15; it has {value} at flat index {index}. "
            "Export the checkpoint again with the tool that quantized it."
        )


class TruncatedTensorError(UserError):
    """A safetensors file ends before a tensor does."""

    def __init__(self, name: str, file: Path) -> None:
        """Name the tensor and the file."""
        super().__init__(f"{str(file)!r} ends inside tensor {name!r}: it is truncated. Download it again.")


class UnreadableFileError(UserError):
    """The system refuses to read a file of the checkpoint."""

    def __init__(self, file: Path, error: OSError) -> None:
        """Name the file and the system's reason."""
        super().__init__(f"Can't read {str(file)!r}: {error.strerror or error}. Check the file and its permissions.")


class WeightsNotWrittenError(UserError):
    """The file of weights can't be written: no space, no permission, no such directory."""

    def __init__(self, path: Path, nbytes: int, error: OSError) -> None:
        """Name the file, its size and the system's reason."""
        space = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "Free space or choose" if error.errno in space else "Choose"
        super().__init__(
            f"Can't write {nbytes / 2**30:.2f} GiB of weights to {str(path)!r}: {error.strerror or error}. "
            f"{remedy} another output directory."
        )


class RecipeMismatchError(EdgellmError):
    """A recipe's sources don't add up to its shape: a defect of whoever made the recipe."""

    def __init__(self, name: str, shape: Sequence[int], sources: Sequence[tuple[str, Sequence[int]]]) -> None:
        """Name the initializer, its shape, and its sources with theirs."""
        listed = ", ".join(f"{source!r} {list(dims)}" for source, dims in sources)
        super().__init__(
            f"The recipe of {name!r} must make shape {list(shape)}; its sources are {listed}. "
            "This is a defect of edgellm or of the family's plugin: please report it."
        )


class InitializerBindingError(EdgellmError):
    """Initializers and the graph don't fit: a defect of surgery or of a recipe."""

    def __init__(self, problem: str, names: Sequence[str]) -> None:
        """Say what is wrong with which tensors."""
        super().__init__(
            f"{problem}: {_listed([repr(name) for name in names])}. "
            "This is a defect of a surgery rule or of the tracing: please report it."
        )
