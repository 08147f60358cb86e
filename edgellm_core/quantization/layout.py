"""Which linear layers of a checkpoint are quantized and how, read from its files in ModelOpt's spelling."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.errors import shown
from edgellm_core.quantization.errors import (
    MalformedQuantizationError,
    QuantizedTensorMismatchError,
    UnsupportedQuantizationError,
)
from edgellm_core.quantization.formats import ALGORITHMS, LinearFormat
from edgellm_core.quantization.known_settings import MODELOPT, require_known_settings
from edgellm_core.quantization.modelopt_claims import (
    cache_algorithm,
    require_one_description,
    require_tensors_that_fit,
)
from edgellm_core.untrusted import read_json_object

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from edgellm_core.checkpoint.tensors import TensorEntry, TensorIndex

QUANT_CONFIG: Final = "hf_quant_config.json"
MIXED: Final = "MIXED_PRECISION"
KV_ALGORITHMS: Final = {"FP8": "fp8"}
"""``kv_cache_quant_algo`` → our name."""

FLOATS: Final = ("F32", "F16", "BF16")
"""Element types in which scales that are documented as F32 are stored too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizationLayout:
    """What of a checkpoint is quantized.

    Attributes:
        linears: format of each quantized linear layer by the path of its module, like ``model.layers.0.mlp.up_proj``.
        kv_cache: ``fp8`` where keys and values are rounded with ``k_proj.k_scale`` and ``v_proj.v_scale`` of each
            layer; None for a cache in the precision of the graph.
        producer: what wrote the checkpoint, for the manifest.
    """

    linears: Mapping[str, LinearFormat]
    kv_cache: str | None = None
    producer: str = ""

    def counts(self) -> dict[str, int]:
        """Return the number of layers by kind of weight, the most frequent first."""
        return dict(Counter(form.weight for form in self.linears.values()).most_common())

    @property
    def scheme(self) -> str:
        """Kind of the weights; ``mixed`` for several, ``none`` where only the cache is quantized."""
        kinds = list(self.counts())
        return kinds[0] if len(kinds) == 1 else "mixed" if kinds else "none"

    def describe(self) -> str:
        """Return what is quantized in one phrase, for example ``14 layers fp8, KV cache fp8 (modelopt 0.47.0)``."""
        parts = [f"{count} layers {kind}" for kind, count in self.counts().items()]
        parts += [f"KV cache {self.kv_cache}"] if self.kv_cache else []
        return ", ".join(parts) + (f" ({self.producer})" if self.producer else "")


def read_layout(directory: Path, config: Mapping[str, Any], tensors: TensorIndex) -> QuantizationLayout | None:
    """Return what of a checkpoint in ModelOpt's form is quantized; None where nothing says that something is.

    Args:
        directory: folder of the checkpoint.
        config: contents of config.json.
        tensors: all tensors of the checkpoint.

    Raises:
        UnsupportedQuantizationError: another tool's form, or an algorithm that is not known.
        MalformedQuantizationError: the description lacks something.
        ContradictoryQuantizationError: two descriptions, or description and tensors, exclude each other.
        QuantizedTensorMismatchError: a tensor is missing, or has another type or shape than its format says.
    """
    path = directory / QUANT_CONFIG
    described = read_json_object(path) if path.is_file() else {}
    own = _section(directory, config, "quantization_config")
    beside = _section(directory, described, "quantization")
    require_one_description(directory, beside, own)
    if not beside and not own:
        return None
    quantization = beside or {**own, "kv_cache_quant_algo": cache_algorithm(own)}
    if "quant_algo" not in quantization:
        raise UnsupportedQuantizationError(directory, str(quantization.get("quant_method", "unknown")))
    for section in (beside, own):
        require_known_settings(directory, "ModelOpt", section, MODELOPT)
    producer = _section(directory, described, "producer") or _section(directory, quantization, "producer")
    kv_cache = _kv_cache(directory, quantization)
    modules = [name.removesuffix(".weight_scale") for name in tensors if name.endswith(".weight_scale")]
    require_tensors_that_fit(directory, (beside, own), quantization, modules, tensors)
    linears = {module: _format(directory, module, quantization, tensors) for module in modules}
    for module, form in linears.items():
        _require_tensors(directory, module, form, tensors)
    return QuantizationLayout(
        linears=linears,
        kv_cache=kv_cache,
        producer=" ".join(str(producer[key]) for key in ("name", "version") if key in producer),
    )


def _section(directory: Path, contents: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a part of a description; empty where there is none."""
    section: Any = contents.get(key) or {}
    if not isinstance(section, dict):
        raise MalformedQuantizationError(directory, f"{key!r} must hold settings and is {section!r}")
    return section


def _block_size(directory: Path, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise MalformedQuantizationError(directory, f"'group_size' must be a positive number and is {value!r}")
    return value


def _kv_cache(directory: Path, quantization: Mapping[str, Any]) -> str | None:
    algorithm = quantization.get("kv_cache_quant_algo")
    if algorithm is None:
        return None
    if not isinstance(algorithm, str) or algorithm not in KV_ALGORITHMS:
        raise UnsupportedQuantizationError(directory, f"kv_cache_quant_algo {shown(algorithm)}")
    return KV_ALGORITHMS[algorithm]


def _format(directory: Path, module: str, quantization: Mapping[str, Any], tensors: TensorIndex) -> LinearFormat:
    """Return the format of one layer, with what the presence of its tensors says."""
    described = quantization
    if quantization["quant_algo"] == MIXED:
        entry = _section(directory, quantization, "quantized_layers").get(module)
        if not isinstance(entry, dict):
            raise MalformedQuantizationError(directory, f"quantized_layers has no entry for {module!r}")
        require_known_settings(directory, f"ModelOpt, for {module!r},", entry, MODELOPT)
        described = entry
    algorithm = str(described.get("quant_algo"))
    if algorithm not in ALGORITHMS:
        raise UnsupportedQuantizationError(directory, f"quant_algo {algorithm} of {module!r}")
    form = ALGORITHMS[algorithm]
    scale, weight = tensors[f"{module}.weight_scale"], tensors.get(f"{module}.weight")
    if form.block_size and described.get("group_size"):
        form = replace(form, block_size=_block_size(directory, described["group_size"]))
    elif form.block_size and weight is not None and len(weight.shape) == len(scale.shape) == 2 and scale.shape[1]:
        form = replace(form, block_size=form.dimensions(weight.shape)[1] // scale.shape[1])
    if form.granularity == "tensor" and len(scale.shape) == 1 and scale.shape != (1,):
        form = replace(form, granularity="channel")
    if form.weight == "int4" and f"{module}.weight_zero_point" in tensors:
        form = replace(form, weight="uint4")
    return replace(
        form,
        smoothed=f"{module}.pre_quant_scale" in tensors,
        ordered=f"{module}.input_order" in tensors,
    )


def _require_tensors(directory: Path, module: str, form: LinearFormat, tensors: TensorIndex) -> None:
    weight = tensors.get(f"{module}.weight")
    if weight is None or len(weight.shape) != 2:
        raise QuantizedTensorMismatchError(directory, f"{module}.weight", "two dimensions", _shape_of(weight))
    outputs, inputs = form.dimensions(weight.shape)
    for suffix, (element_type, shape) in form.tensors(outputs, inputs).items():
        entry = tensors.get(f"{module}.{suffix}")
        types = FLOATS if element_type == "F32" else (element_type,)
        if entry is None or entry.element_type not in types or not _same_shape(entry.shape, shape):
            wanted = f"{element_type} {list(shape)}"
            raise QuantizedTensorMismatchError(directory, f"{module}.{suffix}", wanted, _shape_of(entry))


def _same_shape(stored: Sequence[int], wanted: Sequence[int]) -> bool:
    """Say whether shapes agree; a scalar may be stored as one element."""
    return tuple(stored) == tuple(wanted) or (tuple(stored) == (1,) and not tuple(wanted))


def _shape_of(entry: TensorEntry | None) -> str:
    return "nothing" if entry is None else f"{entry.element_type} {list(entry.shape)}"
