"""A model whose weights are not in memory: its decoder layers, and the reading of some of its weights at a time."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgellm_core.calibration.errors import MissingWeightError, NotLayerwiseError, WeightsNotFiniteError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import torch
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

    from edgellm_core.checkpoint.source import Checkpoint
    from edgellm_core.checkpoint.tensors import TensorIndex


class WeightReader:
    """Reads the parameters of a model from a checkpoint.

    Attributes:
        directory: the checkpoint, for messages.
    """

    def __init__(self, model: PreTrainedModel, directory: Path, tensors: TensorIndex) -> None:
        from edgellm_core.tracing.checkpoint_names import loaded_names, parameter_sources

        self.directory = directory
        self._tensors = tensors
        self._sources = parameter_sources(model, loaded_names(model, tensors))
        self._twins: dict[int, list[str]] = {}
        self._shapes: dict[str, torch.Size] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self._twins.setdefault(id(parameter), []).append(name)
            self._shapes[name] = parameter.shape
        self._group_of = {name: names for names in self._twins.values() for name in names}
        self._kept: dict[str, torch.Tensor] | None = None
        self._finite: set[str] = set()

    def tensor_names(self, parameter: str) -> tuple[str, ...]:
        """Return the checkpoint's tensors that make up a parameter, looking under the names that it is tied to.

        Raises:
            MissingWeightError: there are none.
        """
        for name in (parameter, *self._group_of[parameter]):
            found = self._sources.get(name, (name,))
            if all(source in self._tensors for source in found):
                return found
        raise MissingWeightError(self.directory, parameter)

    def is_own(self, parameter: str) -> bool:
        """Say whether a parameter is one tensor of the checkpoint, and no other parameter is tied to it."""
        return len(self.tensor_names(parameter)) == 1 and len(self._group_of[parameter]) == 1

    def read(self, parameter: str) -> torch.Tensor:
        """Return a parameter in the checkpoint's element type.

        Raises:
            MissingWeightError: the checkpoint lacks it.
            WeightsNotFiniteError: it holds NaN or infinity.
        """
        import torch

        parts = [self.read_tensor(name) for name in self.tensor_names(parameter)]
        joined = parts[0] if len(parts) == 1 else torch.cat([part.reshape(-1) for part in parts])
        if parameter not in self._finite:
            low, high = joined.aminmax()
            if not bool(low.isfinite() & high.isfinite()):
                raise WeightsNotFiniteError(parameter.rpartition(".")[0])
            self._finite.add(parameter)
        return joined.reshape(self._shapes[parameter])

    def read_tensor(self, name: str) -> torch.Tensor:
        """Return one tensor of the checkpoint, which the caller must not change."""
        from safetensors import safe_open

        if self._kept is not None and name in self._kept:
            return self._kept[name]
        with safe_open(self._tensors[name].file, framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        if self._kept is not None:
            self._kept[name] = tensor
        return tensor

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Read each tensor once while the body runs: a layer's weights are needed three times."""
        self._kept = {}
        try:
            yield
        finally:
            self._kept = None


@dataclass(frozen=True, kw_only=True)
class DecoderStack:
    """The decoder layers of a model without weights.

    Attributes:
        model: transformers' model; parameters on the meta device but for those that are loaded.
        path: path of the list of decoder layers, like ``model.layers``.
        layers: the layers.
        reader: reads weights.
        dtype: element type in which the model computes.
        device: where it computes.
    """

    model: PreTrainedModel
    path: str
    layers: tuple[nn.Module, ...]
    reader: WeightReader
    dtype: torch.dtype
    device: torch.device

    def layer_path(self, index: int) -> str:
        """Return the path of one decoder layer."""
        return f"{self.path}.{index}"

    @contextlib.contextmanager
    def loaded(self, *prefixes: str) -> Iterator[None]:
        """Hold the parameters under these paths in memory while the body runs.

        Raises:
            MissingWeightError: the checkpoint lacks one.
            WeightsNotFiniteError: one holds NaN or infinity.
        """
        names = [
            name
            for name, _parameter in self.model.named_parameters(remove_duplicate=False)
            if any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)
        ]
        held: dict[tuple[str, ...], nn.Parameter] = {}
        for name in names:
            sources = self.reader.tensor_names(name)
            if sources not in held:
                held[sources] = self._parameter(self.reader.read(name))
            self._set(name, held[sources])
        try:
            yield
        finally:
            self._unload(names)

    def outside(self) -> list[str]:
        """Return the names of the parameters that are not in a decoder layer."""
        return [name for name, _ in self.model.named_parameters() if not name.startswith(f"{self.path}.")]

    def _parameter(self, tensor: torch.Tensor) -> nn.Parameter:
        from torch import nn

        dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
        return nn.Parameter(tensor.to(device=self.device, dtype=dtype), requires_grad=False)

    def _set(self, name: str, parameter: nn.Parameter) -> None:
        owner, _, attribute = name.rpartition(".")
        self.model.get_submodule(owner)._parameters[attribute] = parameter  # noqa: SLF001  # setattr re-registers

    def _unload(self, names: list[str]) -> None:
        from torch import nn

        parameters: Mapping[str, Any] = dict(self.model.named_parameters(remove_duplicate=False))
        empty: dict[int, nn.Parameter] = {}
        for name in names:
            loaded = parameters[name]
            if id(loaded) not in empty:
                empty[id(loaded)] = nn.Parameter(loaded.to("meta"), requires_grad=False)
            self._set(name, empty[id(loaded)])


def open_stack(
    checkpoint: Checkpoint, config: PreTrainedConfig, *, dtype: torch.dtype, device: torch.device
) -> DecoderStack:
    """Return the decoder layers of a checkpoint's model; no weight is read.

    Args:
        checkpoint: where the weights are.
        config: its transformers config, as its family wants it.
        dtype: element type to compute in.
        device: where to compute.

    Raises:
        NotLayerwiseError: the model has no list of decoder layers.
        UserError: transformers can't build the model.
    """
    from edgellm_core.tracing.layers import find_stack
    from edgellm_core.tracing.weightless import build_weightless

    model = build_weightless(config, dtype)
    _use_own_attention(model)
    path, layers = find_stack(model)
    if not path:
        raise NotLayerwiseError(type(model).__name__, "it has no list of decoder layers")
    for module in model.modules():
        for name, buffer in module._buffers.items():  # noqa: SLF001  # model.to() can't move meta parameters
            if buffer is not None:
                module._buffers[name] = buffer.to(device)  # noqa: SLF001
    return DecoderStack(
        model=model,
        path=path,
        layers=tuple(layers),
        reader=WeightReader(model, checkpoint.directory, checkpoint.tensors),
        dtype=dtype,
        device=device,
    )


def _use_own_attention(model: PreTrainedModel) -> None:
    """Let a model compute attention as transformers chooses for it.

    Tracing replaces ``sdpa`` for every model; torch's own knows neither soft caps nor sinks.
    """
    if model._can_set_attn_implementation():  # noqa: SLF001  # no public query exists (transformers 5.23)
        model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")  # noqa: SLF001  # as from_pretrained
