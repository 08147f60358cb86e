"""What a quantization is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

    from edgellm_core.contract import QuantizationScheme, Rounding

Device = Literal["auto", "cpu", "cuda"]
Arithmetic = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class QuantizationRequest:
    """How the layers of a model are rounded.

    Attributes:
        scheme: for the linear layers of the decoder.
        group_size: inputs that share one scale; None for the largest of the scheme that divides every layer.
        rounding: how the weights of the decoder are rounded; None for the way of the scheme.
        lm_head: scheme of the head; None leaves it in floats.
        kv_cache: ``fp8`` measures scales for keys and values; None leaves the cache in floats.
        skip: patterns of module paths that stay in floats (``fnmatch``).
        device: where to calibrate; ``auto`` takes the GPU if there is one.
        arithmetic: element type in which the samples run through the model; ``auto`` takes bfloat16 where the device
            multiplies it natively. Statistics and searches are in float32 either way.
    """

    scheme: QuantizationScheme
    group_size: int | None = None
    rounding: Rounding | None = None
    lm_head: QuantizationScheme | None = None
    kv_cache: str | None = None
    skip: tuple[str, ...] = ()
    device: Device = "auto"
    arithmetic: Arithmetic = "auto"

    def torch_device(self) -> torch.device:
        """Return where to calibrate."""
        import torch

        if self.device != "auto":
            return torch.device(self.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def torch_type(self) -> torch.dtype:
        """Return the element type in which the samples run through the model."""
        import torch

        capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.10 or newer
        native = capabilities.get("avx512_bf16", False) or self.torch_device().type == "cuda"
        chosen = self.arithmetic if self.arithmetic != "auto" else ("bfloat16" if native else "float32")
        return torch.bfloat16 if chosen == "bfloat16" else torch.float32
