"""Why a model can't be quantized."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgellm_core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class ModelOptMissingError(UserError):
    """nvidia-modelopt, which rounds the weights, is not installed."""

    def __init__(self, reason: str) -> None:
        """Say why the import failed."""
        super().__init__(
            f"Quantizing needs nvidia-modelopt 0.47 or newer, which can't be imported ({reason}). "
            "Install it with pip install 'edgellm[quantize]'."
        )


class NotLayerwiseError(UserError):
    """The decoder layers of the model can't run one after the other."""

    def __init__(self, model: str, reason: str) -> None:
        """Name the model class and what stands in the way."""
        super().__init__(
            f"{model} must run layer by layer to be quantized; {reason}. Build it in fp16 or bf16, or quantize it "
            "with another tool and build from the checkpoint that this writes."
        )


class NothingToQuantizeError(UserError):
    """No linear layer is left to quantize."""

    def __init__(self, model: str, scheme: str, reasons: Sequence[str]) -> None:
        """Name the model class, the scheme, and why layers were left out."""
        why = "; ".join(reasons) or "its decoder layers hold none"
        super().__init__(
            f"{scheme} needs linear layers to round, and none of {model} is left ({why}). Take back --skip patterns, "
            "or build in fp16 or bf16."
        )


class BlockSizeError(UserError):
    """The widths of some layers are no multiple of the block size."""

    def __init__(
        self, scheme: str, sizes: Sequence[int], layers: Sequence[tuple[str, int]], fitting: Sequence[int]
    ) -> None:
        """Name the scheme, the block sizes that were tried, the layers with their widths, and sizes that fit all."""
        pass_one = f"Pass --group-size {' or '.join(map(str, fitting))}, or leave" if fitting else "Leave"
        tried = " or ".join(map(str, sizes))
        shown = ", ".join(f"{name} ({width})" for name, width in layers[:3]) + (", …" if len(layers) > 3 else "")
        super().__init__(
            f"{scheme} shares one scale among {tried} inputs, which must divide the inputs of every layer; it does "
            f"not for {len(layers)}: {shown}. {pass_one} the layers in floats with --skip."
        )


class OddOutputsError(UserError):
    """Two outputs share a byte, and their number is odd."""

    def __init__(self, scheme: str, layers: Sequence[str]) -> None:
        """Name the scheme and the layers."""
        shown = ", ".join(layers[:3]) + (", …" if len(layers) > 3 else "")
        super().__init__(
            f"{scheme} packs two outputs in a byte, so their number must be even; it is odd in {shown}. "
            "Leave the layers in floats with --skip."
        )


class ActivationsNotFiniteError(UserError):
    """A value inside of the model is infinite or not a number."""

    def __init__(self, module: str) -> None:
        """Name the first module."""
        super().__init__(
            f"The inputs of {module} must be finite while calibrating; they hold NaN or infinity. The weights before "
            "it are damaged, or the model needs other calibration text."
        )


class WeightsNotFiniteError(UserError):
    """A weight of the checkpoint is infinite or not a number."""

    def __init__(self, module: str) -> None:
        """Name the module."""
        super().__init__(
            f"The weights of {module} must be finite; they hold NaN or infinity. Download the checkpoint again."
        )


class MissingWeightError(UserError):
    """The checkpoint lacks a parameter of the model."""

    def __init__(self, directory: Path, parameter: str) -> None:
        """Name the checkpoint and the parameter."""
        super().__init__(
            f"{directory} must hold every parameter of the model; {parameter!r} is missing. Download it again."
        )


class CacheNotMeasuredError(UserError):
    """The keys and values of a layer have no names in ModelOpt's form."""

    def __init__(self, module: str) -> None:
        """Name the module that stores them."""
        super().__init__(
            f"--kv-cache fp8 stores its scales with the layers k_proj and v_proj of {module}, which has none. "
            "Leave --kv-cache out."
        )


class CalibrationMemoryError(UserError):
    """The GPU has too little memory."""

    def __init__(self, module: str, batch: int, length: int) -> None:
        """Name where it happened and what was tried."""
        super().__init__(
            f"Calibrating {module} must fit in the memory of the GPU; it did not with {batch} sample of {length} "
            "tokens at a time. Lower --calib-length or --calib-samples, or calibrate on the CPU with --device cpu."
        )


class OutputExistsError(UserError):
    """The output is there already."""

    def __init__(self, out: Path, *, ours: bool) -> None:
        """Name the output; ``ours`` says that it is a quantized checkpoint, which may be replaced."""
        remedy = "Give --force to replace it." if ours else "Choose another directory."
        what = "a quantized checkpoint" if ours else "something that is not a quantized checkpoint"
        super().__init__(f"The output {out} must not exist; it holds {what}. {remedy}")
