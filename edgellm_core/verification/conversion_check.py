"""Compares a converted checkpoint with a second reading of its source, tensor by tensor, before anything uses it.

The gate's reference is made from the converted checkpoint, so a defect of the conversion would stand on both sides.
This comparison has the source's own tensors and published formulas on one side (``published_formats``), and the
finished file, read with safetensors and ``dequantize``, on the other. Memory: the stored tensors of one layer, and a
block of rows.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final

import torch

from edgellm_core.checkpoint.shards import index_tensors, read_headers
from edgellm_core.quantization.errors import ContradictoryQuantizationError
from edgellm_core.quantization.layout import read_layout
from edgellm_core.verification.dequantize import dequantize
from edgellm_core.verification.errors import ConversionDiffersError
from edgellm_core.verification.published_formats import CACHE_SCALES, PUBLISHED, PublishedFormat
from edgellm_core.verification.quantized_weights import StoredTensors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from edgellm_core.checkpoint.tensors import TensorIndex
    from edgellm_core.events import Reporter
    from edgellm_core.quantization.formats import LinearFormat

ROWS: Final = 512
"""Outputs that are compared at once; a multiple of eight."""

LARGEST_MEAN: Final = 0.25
"""Steps that the mean of a layer's weights may be from a whole one and still count as one."""


def require_equal_conversion(
    made: Path, directory: Path, config: Mapping[str, Any], tensors: TensorIndex, report: Reporter
) -> None:
    """Refuse a conversion that does not hold the numbers of its source, all of them and no others.

    Args:
        made: the converted checkpoint.
        directory: its source.
        config: config.json of the source.
        tensors: tensors of the source.
        report: told how far it is.

    Raises:
        ConversionDiffersError: naming the first tensor that differs.
        ContradictoryQuantizationError: all weights lie one step beside zero, as with zero points of another label.
    """
    comparison = _Comparison(made, directory, config, tensors)
    total = len(comparison.layers) + len(comparison.others)
    for done, (module, form) in enumerate(comparison.layers.items(), 1):
        comparison.compare_layer(module, form)
        report.progress(done, total, "converted tensors read a second time")
    for done, (name, new) in enumerate(comparison.others.items(), 1 + len(comparison.layers)):
        comparison.compare_tensor(name, new)
        report.progress(done, total, "converted tensors read a second time")
    comparison.require_nothing_else()
    comparison.require_centred_weights()


class _Comparison:
    def __init__(self, made: Path, directory: Path, config: Mapping[str, Any], tensors: TensorIndex) -> None:
        self._directory = directory
        self._settings: Mapping[str, Any] = config["quantization_config"]
        self._centres: list[float | None] = []
        self._source, self._names = StoredTensors(tensors), tensors
        found = index_tensors(read_headers(made))
        layout = read_layout(made, {}, found)
        self._linears: Mapping[str, LinearFormat] = layout.linears if layout else {}
        self._converted, self._left = StoredTensors(found), set(found)
        self.layers = {
            name.removesuffix(f".{form.marker}"): form
            for form in PUBLISHED[self._settings["quant_method"]]
            for name, entry in tensors.items()
            if name.endswith(f".{form.marker}") and entry.element_type == form.element_type
        }
        parts = {f"{module}.{part}" for module, form in self.layers.items() for part in form.parts}
        self.others = {name: self._renamed(name) for name in tensors if name not in parts}

    def _renamed(self, name: str) -> str:
        if self._settings.get("kv_cache_scheme"):
            for old, new in CACHE_SCALES.items():
                if name.endswith(f".{old}"):
                    return name.removesuffix(old) + new
        return name

    def compare_layer(self, module: str, form: PublishedFormat) -> None:
        """Compare the weight of a layer, and what is carried along with it."""
        linear = self._linears.get(module)
        if linear is None:
            raise ConversionDiffersError(self._directory, module, "is no quantized layer of it")
        parts = {part: self._source.read(n) for part in form.parts if (n := f"{module}.{part}") in self._names}
        new = self._converted.of_linear(module, linear, weight=True) | self._converted.of_linear(
            module, linear, weight=False
        )
        self._left -= {f"{module}.{suffix}" for suffix in new}
        outputs, settings = form.outputs(parts), self._settings_of(module)
        for first in range(0, outputs, ROWS):
            last = min(first + ROWS, outputs)
            found = _rows(linear, new, first, last)
            wanted = form.rows(parts, settings, first, last)
            if not torch.allclose(found, wanted, rtol=0, atol=0, equal_nan=True):  # NaN is refused when it is bound
                where = f"has other weights in its outputs {first} to {last - 1}"
                raise ConversionDiffersError(self._directory, module, where)
        self._centres.append(form.centre(parts, settings))
        for suffix in form.carried:
            if suffix not in new or not torch.equal(new[suffix].float().flatten(), parts[suffix].float().flatten()):
                raise ConversionDiffersError(self._directory, f"{module}.{suffix}", "has another value")

    def compare_tensor(self, name: str, new: str) -> None:
        """Compare a tensor that no layer is made from."""
        if new not in self._converted:
            raise ConversionDiffersError(self._directory, name, "is missing in it")
        self._left.discard(new)
        old, found = self._source.read(name), self._converted.read(new)
        same_values = old.dtype == found.dtype and torch.equal(_bytes(old), _bytes(found))
        if not same_values or (name == new and old.shape != found.shape):
            raise ConversionDiffersError(self._directory, name, "has another value")

    def require_nothing_else(self) -> None:
        """Refuse tensors that the source does not explain."""
        if self._left:
            raise ConversionDiffersError(self._directory, min(self._left), "belongs to nothing in the source")

    def require_centred_weights(self) -> None:
        """Refuse asymmetric GPTQ weights whose mean, in every layer, is one step off zero, to the side of the label.

        Weights of linear layers have a mean of next to nothing (0.05 steps), so a mean of a whole step everywhere shows
        zero points that are stored as the other format stores them.
        """
        centres = [centre for centre in self._centres if centre is not None]
        mean = sum(centres) / max(1, len(centres))
        if centres and all(abs(centre - math.copysign(1, mean)) < LARGEST_MEAN for centre in centres):
            problem = (
                f"its label makes the mean of the weights {mean:+.2f} steps in every layer, so the zero points are "
            )
            raise ContradictoryQuantizationError(self._directory, f"{problem}those of the other label")

    def _settings_of(self, module: str) -> Mapping[str, Any]:
        """Return the settings of a layer; ``dynamic`` is GPTQModel's map from expressions to overrides."""
        for pattern, overrides in (self._settings.get("dynamic") or {}).items():
            if re.match(pattern.removeprefix("+:"), module):
                return {**self._settings, **(overrides or {})}
        return self._settings


def _rows(linear: LinearFormat, stored: Mapping[str, torch.Tensor], first: int, last: int) -> torch.Tensor:
    """Return outputs of a converted layer, float32 ``[last - first, in]``, inputs in the order of the model."""
    share = 2 if linear.weight in ("int4", "uint4") else 1
    chosen = {"weight": stored["weight"][first // share : last // share]}
    for suffix in ("weight_scale", "weight_zero_point"):
        if suffix in stored:
            whole = linear.granularity == "tensor"
            chosen[suffix] = stored[suffix] if whole else stored[suffix][first:last]
    weight = dequantize(linear, chosen, torch.float32)
    if "input_order" in stored:
        ordered = torch.empty_like(weight)
        ordered[:, stored["input_order"]] = weight
        return ordered
    return weight


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
