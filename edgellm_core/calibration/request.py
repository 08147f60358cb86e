"""What a quantization is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from edgellm_core.contract import QuantizationScheme

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class QuantizationRequest:
    """How the layers of a model are rounded.

    Attributes:
        scheme: for the linear layers of the decoder.
        group_size: inputs that share one scale; None for the largest of the scheme that divides every layer.
        lm_head: scheme of the head; None leaves it in floats.
        kv_cache: ``fp8`` measures scales for keys and values; None leaves the cache in floats.
        skip: patterns of module paths that stay in floats (``fnmatch``).
        device: where to calibrate; ``auto`` takes the GPU if there is one.
    """

    scheme: QuantizationScheme
    group_size: int | None = None
    lm_head: QuantizationScheme | None = None
    kv_cache: str | None = None
    skip: tuple[str, ...] = ()
    device: Device = "auto"
