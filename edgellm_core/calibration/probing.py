"""One decoder layer in float32 on a few tokens, with some parameters changed: how folds are found and proved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from torch import nn

    from edgellm_core.calibration.layer_calls import LayerCall
    from edgellm_core.calibration.stack import DecoderStack

PROBE_TOKENS: Final = 16
"""Tokens of a probe: enough that every channel is some number, few enough to cost nothing beside calibration."""


class LayerProbe:
    """A decoder layer in float32.

    Attributes:
        path: path of the layer.
        layer: the module.
        weights: its parameters by path, float32.
        stored_types: element types in which the checkpoint stores them.
        own: paths of parameters that are one tensor of the checkpoint and not tied to others.
        output: what it returns for the probe [1, tokens, hidden].
        inputs: what each of its linear layers reads, by path.
        outputs: what each of its modules with parameters of its own returns, by path.
    """

    def __init__(self, stack: DecoderStack, index: int, call: LayerCall, hidden: torch.Tensor) -> None:
        """Run the layer once.

        Args:
            stack: the model.
            index: the layer.
            call: how the model calls it for inputs of the shape of ``hidden``.
            hidden: hidden states [1, tokens, hidden] that enter it.
        """
        self.path = stack.layer_path(index)
        self.layer = stack.layers[index]
        self._call = call
        self._hidden = hidden.to(stack.device).float()
        names = [f"{self.path}.{name}" for name, _ in self.layer.named_parameters(remove_duplicate=False)]
        stored = {name: stack.reader.read(name) for name in names}
        self.stored_types = {name: value.dtype for name, value in stored.items()}
        self.weights = {name: _as_float(value).to(stack.device) for name, value in stored.items()}
        self.own = {name for name in self.weights if stack.reader.is_own(name)}
        self.inputs: dict[str, torch.Tensor] = {}
        self.outputs: dict[str, torch.Tensor] = {}
        self.output = self.run({}, self.inputs, self.outputs)

    def run(
        self,
        changed: Mapping[str, torch.Tensor],
        inputs: dict[str, torch.Tensor] | None = None,
        outputs: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Return the layer's output with some parameters changed.

        Args:
            changed: float32 values by the path of the parameter.
            inputs: takes what the linear layers read.
            outputs: takes what the modules with parameters return.
        """
        from torch.func import functional_call

        prefix = f"{self.path}."
        values = {name.removeprefix(prefix): value for name, value in {**self.weights, **changed}.items()}
        handles = []
        for name, module in self.layer.named_modules():
            if next(module.parameters(recurse=False), None) is not None:
                handles.append(module.register_forward_hook(_recorder(prefix + name, module, inputs, outputs)))
        try:
            arguments, named = self._call.arguments_for(self._hidden, floats=True)
            output = functional_call(self.layer, values, arguments, named)
        finally:
            for handle in handles:
                handle.remove()
        result: torch.Tensor = output[0] if isinstance(output, tuple) else output
        return result

    def changes_output(self, changed: Mapping[str, torch.Tensor], *, tolerance: float) -> bool:
        """Say whether changed parameters move the output by more than ``tolerance``, relative to its largest value."""
        difference = (self.run(changed) - self.output).abs().max()
        return not bool(difference <= tolerance * self.output.abs().max())


def _recorder(
    path: str, module: nn.Module, inputs: dict[str, torch.Tensor] | None, outputs: dict[str, torch.Tensor] | None
) -> Callable[..., None]:
    from torch import nn

    def hook(_module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if inputs is not None and isinstance(module, nn.Linear):
            inputs[path] = args[0]
        if outputs is not None:
            outputs[path] = output

    return hook


def _as_float(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
