"""Which GPUs compute with what a build quantizes."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from edgellm_core.quantization.schemes import BUILT_IN, Fp8, Int4Awq

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgellm_core.contract import QuantizationScheme
    from edgellm_core.pipeline.settings import BuildSettings
    from edgellm_core.quantization.layout import QuantizationLayout


def _of_kinds() -> dict[str, int]:
    found = {"uint4": Int4Awq.compute_capability}
    for scheme in BUILT_IN.values():
        form = scheme().linear_format(next(iter(scheme.block_sizes), 0))
        found[form.weight] = scheme.compute_capability
    return found


LEAST_OF_KINDS: Final[Mapping[str, int]] = MappingProxyType(_of_kinds())
"""Kind of weight → least 10 * major + minor of a GPU that computes with it."""


def needed_compute_capabilities(
    settings: BuildSettings, layout: QuantizationLayout | None, schemes: Mapping[str, type[QuantizationScheme]]
) -> dict[str, int]:
    """Return the least compute capability for each thing that is quantized, by its name.

    Args:
        settings: of the build.
        layout: what the source has quantized; None for an unquantized one.
        schemes: schemes that plugins bring.
    """
    if layout is not None:
        found = {f"{kind} weights": LEAST_OF_KINDS[kind] for kind in layout.counts()}
        cache = layout.kv_cache
    elif settings.quantizes:
        request = settings.request(schemes)
        chosen = [request.scheme, *([request.lm_head] if request.lm_head else [])]
        found = {scheme.name: scheme.compute_capability for scheme in chosen}
        cache = settings.kv_cache
    else:
        return {}
    return found | ({f"an {cache} KV cache": Fp8.compute_capability} if cache else {})
