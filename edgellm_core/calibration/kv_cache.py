"""Ranges of the keys and values as a layer hands them to its cache: after RoPE, before grouped heads are repeated.

ModelOpt's ``k_bmm_quantizer`` and ``v_bmm_quantizer`` round the same tensors, and its scale is amax / 448 (0.47,
``postprocess_state_dict``).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.calibration.errors import ActivationsNotFiniteError, CacheNotMeasuredError
from edgellm_core.quantization.formats import LARGEST_E4M3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from torch import nn

CACHE_ARGUMENT: Final = "past_key_values"
"""Name under which transformers 5 gives a decoder layer its cache."""


class CacheRecorder:
    """Stands in for the cache of one layer: measures what is stored and returns it, and keeps nothing."""

    def __init__(self, layer: nn.Module, path: str) -> None:
        """Take the decoder layer and its path."""
        self._layer = layer
        self._path = path
        self._running: list[str] = []
        self._ranges: dict[str, list[torch.Tensor]] = {}

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_args: Any, **_kwargs: Any) -> tuple[Any, Any]:
        """Measure keys and values [batch, heads, seq, head_dim], and return them as a cache would without a past."""
        found = [tensor.abs().amax().float() for tensor in (keys, values)]
        module = self._running[-1]
        before = self._ranges.get(module, found)
        self._ranges[module] = [one.maximum(another) for one, another in zip(before, found, strict=True)]
        return keys, values

    def get_seq_length(self, *_args: Any, **_kwargs: Any) -> int:
        """Return the length of the past, 0."""
        return 0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Know which module stores keys and values while the body runs."""
        handles = []
        for name, module in self._layer.named_modules():
            handles.append(module.register_forward_pre_hook(self._entering(f"{self._path}.{name}")))
            handles.append(module.register_forward_hook(self._leaving))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def scales(self) -> dict[str, torch.Tensor]:
        """Return the scales by their names in the checkpoint, F32 []; empty where the layer has no such cache.

        Raises:
            CacheNotMeasuredError: the module that stores them has no projections of keys and values.
            ActivationsNotFiniteError: keys or values are not finite.
        """
        found: dict[str, torch.Tensor] = {}
        for path, (keys, values) in self._ranges.items():
            attention = self._layer.get_submodule(path.removeprefix(f"{self._path}."))
            if not (hasattr(attention, "k_proj") and hasattr(attention, "v_proj")):
                raise CacheNotMeasuredError(path)
            for name, amax in ((f"{path}.k_proj.k_scale", keys), (f"{path}.v_proj.v_scale", values)):
                if not bool(amax.isfinite()):
                    raise ActivationsNotFiniteError(name)
                found[name] = (amax / LARGEST_E4M3).where(amax > 0, 1.0).cpu()
        return found

    def _entering(self, path: str) -> Callable[..., None]:
        return lambda *_args: self._running.append(path)

    def _leaving(self, *_args: Any) -> None:
        self._running.pop()
