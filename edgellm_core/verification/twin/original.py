"""The original of a twin: transformers' own model in float32, small enough to be made again and again."""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from edgellm_core.tracing.probe import cache_argument
from edgellm_core.tracing.weightless import causal_lm_class

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedConfig, PreTrainedModel

    from edgellm_core.verification.cases import Logits, StepInputs


def original_of(config: PreTrainedConfig, weights: Mapping[str, torch.Tensor] | None = None) -> PreTrainedModel:
    """Return the model of a config in float32 as transformers itself makes it.

    Args:
        config: small.
        weights: its parameters; None for what transformers initializes. Buffers are computed: some are masks.

    Raises:
        RuntimeError: they have other names or shapes; and whatever else the code of a model raises.
    """
    model_class: Any = causal_lm_class(config)
    model: PreTrainedModel = model_class._from_config(  # noqa: SLF001  # what AutoModel calls itself
        copy.deepcopy(config), dtype=torch.float32, attn_implementation="eager"
    )
    if weights is not None:
        model.load_state_dict(dict(weights), strict=False)
    model.eval()
    return model


def on_meta(config: PreTrainedConfig) -> PreTrainedModel:
    """Return the model of a config without memory; its parameters have shapes only."""
    with torch.device("meta"), torch.no_grad():
        return original_of(config)


def randomize(model: nn.Module, seed: int = 0) -> None:
    """Give every parameter values that matter: norms away from 1, biases away from 0, logits of order one."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = {
        id(module.weight): float(getattr(module, "embed_scale", 1.0))  # transformers' name for a factor on the result
        for module in model.modules()
        if isinstance(module, nn.Embedding)
    }
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() <= 1 or "norm" in name:
                parameter.add_(noise * 0.2)
            elif id(parameter) in embeddings:
                parameter.copy_(noise / embeddings[id(parameter)])
            else:
                parameter.copy_(noise * (1.3 / max(parameter.shape[-1], parameter.shape[-2]) ** 0.5))


class OriginalRunner:
    """Runs the original of a twin step by step over transformers' own cache."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._cache: Any = None
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self._cache_name = cache_argument(model)
        self._fresh = [(module, dict(module.__dict__), _copied(module)) for module in model.modules()]

    def start(self) -> None:
        """Forget the cache, and the frequencies that an earlier, longer run left on the model."""
        self._cache = None
        for module, attributes, buffers in self._fresh:
            for name in module.__dict__.keys() - attributes.keys():
                del module.__dict__[name]
            module.__dict__.update(attributes)
            module._buffers.clear()  # noqa: SLF001  # setattr refuses what is no plain tensor
            module._buffers.update({name: value if value is None else value.clone() for name, value in buffers.items()})  # noqa: SLF001

    def run(self, inputs: StepInputs) -> Logits:
        """Run one step; return float32 logits [batch, seq, vocab]."""
        arguments: dict[str, Any] = {"position_ids": inputs.position_ids} if self._takes_positions else {}
        whole = self._cache_name == "past_key_values"
        mask = inputs.attention_mask if whole else inputs.attention_mask[:, -inputs.input_ids.shape[1] :]
        arguments |= {"input_ids": inputs.input_ids, "attention_mask": mask}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arguments.items()}
        with torch.inference_mode():
            output = self._model(**tensors, **{self._cache_name: self._cache}, use_cache=True)
        self._cache = getattr(output, self._cache_name)
        logits: Logits = output.logits.float().numpy()
        return logits


def _copied(module: nn.Module) -> dict[str, torch.Tensor | None]:
    return {name: value if value is None else value.clone() for name, value in module._buffers.items()}  # noqa: SLF001
